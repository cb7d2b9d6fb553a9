"""An adapter into plain weights, tensor by tensor: the base's files are written anew in their own layout, and what the
adapter does not change is copied by range or shared. Arithmetic in float32, one rounding.

The weights are those of PEFT's `merge_and_unload` in float32, without the model in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.core import events, manifest, weights
from tasks.core.weights import INDEX
from tasks.ml import tensors, updates
from tasks.ml.merging import shards, writing
from tasks.ml.merging.change import Left
from tasks.ml.merging.held import Seen
from tasks.ml.updates import ties
from tasks.ml.updates.ties import Plan

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BENT = 0.9
"""A survival below this is told."""


def write(base: Path, adapter: Path, into: Path, dtype: str, seen: Seen | None = None) -> dict[str, Any]:
    """Write the merged model; facts say how much of each change survived the rounding.

    seen: merge into the base as training saw it, not as its files have it.

    Unmergeable: nothing is written. ModelError: the adapter is damaged, or belongs to another base.
    """
    files = {file: tensors.stored(file) for file in weights.shards(base)}
    weights.check_index(base, {file: {name: it.place for name, it in found.items()} for file, found in files.items()})
    where = {name: stored for found in files.values() for name, stored in found.items()}
    trained = updates.of(base, adapter)
    if seen is not None:
        trained = seen.under(trained, where)
    plan = ties.plan(base, trained, where, lambda name: where[name].read().float())
    planned = [
        shards.plan(
            file, into / file.name, there,
            {name: place for name, place in plan.places.items() if where[place.source].file == file},
            where.__getitem__, DTYPES.get(dtype),
        )
        for file, there in files.items()
    ]  # fmt: skip
    writing.check_room(planned, into)
    _copy(base, into)
    left = writing.write(planned)
    _configure(into, dtype, plan, sum(part.end - part.start for shard in planned for part in shard.parts))
    changed = {name: it for name, it in left.items() if plan.places[name].update.value is not updates.same}
    return {**_survived(changed), "untied": plan.untied}


def _copy(base: Path, into: Path) -> None:
    """Everything but the weights."""
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix != ".safetensors" and file.name != manifest.NAME:
            shutil.copyfile(file, into / file.name)


def _configure(folder: Path, dtype: str, plan: Plan, size: int) -> None:
    """What the files say of themselves: a new dtype, a head that is a tensor of its own. `size`: bytes of all tensors."""
    said: dict[str, Any] = {} if dtype == "base" else {"dtype": dtype}
    if plan.untied:
        said["tie_word_embeddings"] = False
    if not said:
        return
    _amend(folder / "config.json", said)
    index = folder / INDEX
    if index.is_file():
        listed: dict[str, Any] = json.loads(index.read_bytes())
        shards = listed["weight_map"]
        new = {name: shards[place.source] for name, place in plan.places.items()}
        metadata = {**listed.get("metadata", {}), "total_size": size}
        _amend(index, {"metadata": metadata, "weight_map": {**new, **shards}})


def _amend(file: Path, changes: Mapping[str, Any]) -> None:
    value = {**json.loads(file.read_bytes()), **changes}
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _survived(left: Mapping[str, Left]) -> dict[str, Any]:
    """Of every changed tensor: how its stored change lies to the learned one, and the share of values that did not move."""
    survival = [left[name].survival for name in sorted(left)]
    if lost := [value for value in survival if value < BENT]:
        events.warning(
            f"rounding bends the change (cosine under {BENT}) in {len(lost)} of {len(survival)} tensors; "
            "merge.dtype=float32 keeps all"
        )
    every = sum(left.values(), Left())
    return {
        "merged_tensors": len(survival), "survival_min": round(min(survival), 4),
        "survival_mean": round(sum(survival) / len(survival), 4), "unchanged": round(every.same / max(1, every.values), 4),
    }  # fmt: skip
