"""Adapters in tuneline's own format as updates: tensors that stand in place of the base's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml import own_adapter, tensors
from tasks.ml.tensors import Stored
from tasks.ml.updates import BESIDE, Unmergeable, Update, Updates


def updates(adapter: Path) -> Updates:
    """Unmergeable: it brings modules of its own, or a prompt. ModelError: damaged."""
    described = own_adapter.read(adapter)
    if described.kind == "parts":
        raise Unmergeable(
            f"of {described.method} with LoRA, one part stands before the prompt, which no weight of the base can hold"
        )
    if described.method == "xlora":
        raise Unmergeable(BESIDE["XLORA"])
    if described.kind == "modules":
        raise Unmergeable(f"{described.method} brings modules of its own, which the base has no place for")
    found = tensors.finite(adapter / own_adapter.TENSORS)
    return {name: Update(partial(_replace, adapter, name, value)) for name, value in found.items()}


def _replace(adapter: Path, name: str, value: Stored, before: Tensor) -> Tensor:
    if value.shape != tuple(before.shape):
        raise ModelError(f"{adapter}: {name} is {value.shape}, in the base {tuple(before.shape)}: wrong base")
    return value.read().float()
