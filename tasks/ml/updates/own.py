"""Adapters in tuneline's own format as updates: tensors that stand in place of the base's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from tasks.core import weights
from tasks.core.errors import ModelError
from tasks.ml import loading, own_adapter, tensors
from tasks.ml.tensors import Stored
from tasks.ml.updates import BESIDE, Unmergeable, Update, Updates, ties

Read = Callable[[], Tensor]


def updates(base: Path, adapter: Path) -> Updates:
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
    there = {name for shard in weights.shards(base) for name in weights.header(shard)}
    named = {name: partial(Stored.read, value) for name, value in found.items()}
    if any(ties.find(name, there) is None for name in found):
        named = _as_in_files(base, named)
    return {name: Update(partial(_replace, adapter, name, read)) for name, read in named.items()}


def _as_in_files(base: Path, named: Mapping[str, Read]) -> dict[str, Read]:
    """transformers may hold several of the files' tensors as one, as it does with experts; they are taken apart, in memory."""
    apart = revert_weight_conversion(loading.empty(base), {name: read() for name, read in named.items()})
    return {name: partial(Tensor.contiguous, value) for name, value in apart.items()}


def _replace(adapter: Path, name: str, read: Read, before: Tensor) -> Tensor:
    value = read()
    if value.shape != before.shape:
        raise ModelError(f"{adapter}: {name} is {tuple(value.shape)}, in the base {tuple(before.shape)}: wrong base")
    return value.float()
