"""Methods that train tensors of the base itself: what changed is saved whole, under its own name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core.errors import ModelError
from tasks.core.sections import Section
from tasks.ml import loading, own_adapter
from tasks.ml.tuned import Runner, Tuned

Trains = Callable[[int, Sequence[float]], frozenset[str] | None]


def tune(
    model: PreTrainedModel, names: Iterable[str], method: str, options: Section, trains: Trains | None = None
) -> Tuned:
    """Let these parameters of the frozen model train; `trains` may let some rest, step by step.

    Memory beside the weights: a gradient in their dtype, and for what trains at one time 4 bytes of master, 4 of
    gradient and 8 of AdamW's moments an element.
    """
    wanted, parameters = set(names), dict(model.named_parameters())
    chosen = [name for name in parameters if name in wanted]
    write = own_adapter.saver(model, "weights", method, options)
    start = {name: _digest(parameters[name]) for name in chosen}
    for name in chosen:
        parameters[name].requires_grad_(True)

    def save(folder: Path) -> None:
        changed = {name: parameters[name] for name in chosen if _digest(parameters[name]) != start[name]}
        if not changed:
            raise ModelError(f"train.method={method}: no tensor of the base changed: nothing is written")
        write(folder, changed)

    loading.forget_path(model)
    tuned = Tuned(Runner.of(model), save)
    return tuned if trains is None else Tuned(tuned.runner, save, trains=trains)


def _digest(value: Tensor) -> bytes:
    """Of the tensor's bytes: a copy of the base to compare with would double its memory. Shapes alone have none."""
    if value.is_meta:
        return b""
    plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(plain.numpy().data).digest()
