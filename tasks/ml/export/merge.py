"""An adapter into plain weights: the base's files are copied and only touched tensors rewritten in place.

For LoRA bit-identical to PEFT's `merge_and_unload` in float32 followed by one rounding, without loading the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.core import events, manifest, weights
from tasks.core.errors import ModelError
from tasks.ml import loading, updates
from tasks.ml.updates import ties
from tasks.ml.updates.ties import Place, Plan

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
INDEX = "model.safetensors.index.json"


def write(base: Path, adapter: Path, into: Path, dtype: str) -> dict[str, Any]:
    """Write the merged model; facts say how much of each change survived the rounding.

    Unmergeable: nothing is written. ModelError: the adapter is damaged, or belongs to another base.
    """
    shards = {shard: weights.header(shard) for shard in weights.shards(base)}
    where = {name: shard for shard, places in shards.items() for name in places}
    plan = ties.plan(base, updates.of(base, adapter), where, lambda name: _read(where[name], name).float())
    _copy(base, into)
    survival: list[float] = []
    for number, shard in enumerate(shards, start=1):
        mine = {name: place for name, place in plan.places.items() if where[place.source] == shard}
        survival += _shard(shard, into / shard.name, mine, DTYPES.get(dtype))
        events.progress("merge", number, len(shards), tensors=len(survival))
    _configure(into, dtype, plan)
    _tell(survival)
    return {
        "merged_tensors": len(survival), "survival_min": min(survival), "survival_mean": sum(survival) / len(survival),
        "untied": plan.untied,
    }  # fmt: skip


def _copy(base: Path, into: Path) -> None:
    """Everything but the weights."""
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.name != manifest.NAME:
            shutil.copyfile(file, into / file.name)


def _shard(source: Path, target: Path, places: Mapping[str, Place], dtype: torch.dtype | None) -> list[float]:
    """Write one shard with the updates that belong to it; the share of each change that survived rounding."""
    there = weights.header(source)
    if dtype is None and places.keys() <= there.keys():
        shutil.copyfile(source, target)
        return [_patch(target, there[name], *_apply(name, place, source, None)) for name, place in places.items()]
    made = {name: _apply(name, place, source, dtype) for name, place in places.items()}
    tensors = {name: made[name][0] if name in made else _read(source, name) for name in {**there, **made}}
    with loading.writing(target):
        save_file(
            {name: value.to(dtype or value.dtype) for name, value in tensors.items()}, target, metadata={"format": "pt"}
        )
    return [survival for _, survival in made.values()]


def _apply(name: str, place: Place, source: Path, dtype: torch.dtype | None) -> tuple[Tensor, float]:
    """The tensor as it is stored after its update, rounded once, and the share of the change that survived that."""
    stored = _read(source, place.source)
    before = stored.float()
    after = place.update.value(before)
    rounded = after.to(dtype or stored.dtype).contiguous()
    if not rounded.isfinite().all():
        raise ModelError(f"{name}: the merged weight is not finite in {rounded.dtype}: set merge.dtype=float32")
    return rounded, _survival(before, after, rounded)


def _survival(before: Tensor, after: Tensor, rounded: Tensor) -> float:
    """Cosine between the change that is stored and the change that was learned: 1 where rounding lost nothing."""
    stored, learned = rounded.float() - before.to(rounded.dtype).float(), after - before
    if torch.equal(stored, learned):
        return 1.0
    return torch.nn.functional.cosine_similarity(stored.flatten(), learned.flatten(), dim=0).item()


def _patch(file: Path, place: weights.Tensor, value: Tensor, survival: float) -> float:
    with file.open("r+b") as stream:
        stream.seek(place.start)
        stream.write(value.view(torch.uint8).numpy().tobytes())
    return survival


def _read(shard: Path, name: str) -> Tensor:
    try:
        with safe_open(shard, "pt") as tensors:
            return tensors.get_tensor(name)
    except SafetensorError as error:
        raise ModelError(f"{shard}: {error}") from None


def _configure(folder: Path, dtype: str, plan: Plan) -> None:
    """What the files say of themselves: a new dtype, a head that is a tensor of its own."""
    said: dict[str, Any] = {} if dtype == "base" else {"dtype": dtype}
    if plan.untied:
        said["tie_word_embeddings"] = False
    if said:
        _amend(folder / "config.json", said)
    index = folder / INDEX
    if plan.untied and index.is_file():
        shards = json.loads(index.read_bytes())["weight_map"]
        new = {name: shards[place.source] for name, place in plan.places.items()}
        _amend(index, {"weight_map": {**new, **shards}})


def _amend(file: Path, changes: Mapping[str, Any]) -> None:
    value = {**json.loads(file.read_bytes()), **changes}
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _tell(survival: Sequence[float]) -> None:
    if lost := [value for value in survival if value < 0.9]:
        events.warning(
            f"rounding bends the change (cosine under 0.9) in {len(lost)} of {len(survival)} tensors; merge.dtype=float32 keeps all"
        )
