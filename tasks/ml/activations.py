"""How strongly the inputs of a model's matrices are active: what their quantisation should be exact about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tasks.core import events
from tasks.data.chatset import Tokens
from tasks.ml import loading


def mean_squares(folder: Path, rows: Sequence[Tokens]) -> dict[str, Tensor]:
    """For each linear module's name the mean over all tokens of its squared inputs, float32, shape (inputs,)."""
    model = loading.load(folder, loading.compute_dtype("auto"))
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].detach().float().flatten(0, -2).square().sum(0).cpu()
            sums[name] = sums[name] + squares if name in sums else squares

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_pre_hook(watch(name))
    with torch.inference_mode():
        for number, row in enumerate(rows, start=1):
            model(input_ids=torch.tensor([list(row.ids)], device=model.device), use_cache=False)
            events.progress("importance of the weights", number, len(rows))
    tokens = sum(len(row.ids) for row in rows)
    return {name: total / tokens for name, total in sums.items()}
