"""Optimizers by name, and their memory as plain tensors for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tasks.core.sections import Optimizer


def make(params: Optimizer, groups: Mapping[float, list[Tensor]]) -> list[torch.optim.Optimizer]:
    """One optimizer, or two where the named one takes matrices only. `groups`: tensors by their times the rate."""
    options: list[dict[str, Any]] = [{"params": tensors, "times": times} for times, tensors in groups.items()]
    return [torch.optim.AdamW(options, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True)]


def tensors(optimizers: list[torch.optim.Optimizer], names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Everything that the optimizers remember, as `KEY.NAME`. Law: `restore` of it changes nothing."""
    return {
        f"{key}.{names[parameter]}": value if isinstance(value, Tensor) else torch.tensor(value)
        for optimizer in optimizers
        for parameter, memory in optimizer.state.items()
        for key, value in memory.items()
    }


def restore(optimizers: list[torch.optim.Optimizer], names: Mapping[Tensor, str], saved: Mapping[str, Tensor]) -> None:
    memories: dict[str, dict[str, Tensor]] = {}
    for place, value in saved.items():
        key, _, name = place.partition(".")
        memories.setdefault(name, {})[key] = value
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if memory := memories.get(names[parameter]):
                    optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device) for key, value in memory.items()
                    }


def keep(old: list[torch.optim.Optimizer], new: list[torch.optim.Optimizer]) -> None:
    """What the old optimizers remember of tensors that the new ones still move."""
    moved = {id(p) for optimizer in new for group in optimizer.param_groups for p in group["params"]}
    remembered = {id(p): memory for optimizer in old for p, memory in optimizer.state.items() if id(p) in moved}
    for optimizer in new:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in remembered:
                    optimizer.state[parameter] = remembered[id(parameter)]
