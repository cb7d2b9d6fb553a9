"""From the corpus to the training set: blocks through worker processes, then what needs all rows at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core import events, manifest
from tasks.core.continued import Continued
from tasks.core.sections import PrepareParams
from tasks.data import account, blocks, parallel
from tasks.data.blocks import Knowledge
from tasks.data.gathering import Gathering, Packed
from tasks.data.quality.answers import Repeats
from tasks.data.quality.contamination import Index
from tasks.data.report.datacard import DataCard
from tasks.data.rows import Row

SCRATCH = ".scratch"
SMALL = 2
"""Blocks up to which a second process would cost more than it saves."""


@dataclass(frozen=True)
class Made:
    """What was assembled. Both are equal for equal work."""

    facts: dict[str, Any]
    card: DataCard


def assemble(params: PrepareParams, raw: Path, base: Path, folder: Path, told: Path) -> Made:
    """Write `train/`, `valid.parquet` and `test.parquet` into `folder`, and `dropped.jsonl` into `told`.

    DataError as `tasks.prepare` says.
    """
    scratch = folder / SCRATCH
    scratch.mkdir()
    rows = manifest.read(raw).facts["rows"]
    count = 1 if rows <= SMALL * blocks.ROWS else parallel.workers()
    with parallel.processes(count, blocks.begin, params, base, scratch) as mapped:
        index, knowledge = _scout(params, mapped, raw, rows, scratch)
        gathering = Gathering(params, scratch, index, Continued.of(manifest.read(base)))
        for block in mapped(blocks.encode, ((job, knowledge) for job in blocks.jobs(raw))):
            gathering.add(block)
            events.progress("prepare", gathering.read, rows)
    gathering.settle()
    packed = gathering.write(folder)
    shutil.move(gathering.dropped_file, told / "dropped.jsonl")
    shutil.rmtree(scratch)
    facts = _facts(gathering, packed)
    return Made(facts, account.card(params, raw, base, gathering, packed, facts))


def _scout(
    params: PrepareParams, mapped: parallel.Mapped[Any, Any], raw: Path, rows: int, scratch: Path
) -> tuple[Index | None, Knowledge]:
    """What judging a row needs to know of all others; nothing is read where no rule asks."""
    rules = params.quality
    if rules.contamination.action == "ignore" and rules.answers.repeated == "ignore":
        return None, Knowledge()
    test, repeats, done = scratch / "test.jsonl", Repeats({}), 0
    with test.open("wb") as file:
        for scouted in mapped(blocks.scout, blocks.jobs(raw)):
            file.writelines(line + b"\n" for line in scouted.test)
            repeats += scouted.repeats
            done += scouted.rows
            events.progress("look through", done, rows)
    repeated = repeats.above(rules.answers.max_repeats)
    if rules.contamination.action == "ignore":
        return None, Knowledge(None, repeated)
    index, grams = Index.of(_rows(test), rules.contamination.ngram), scratch / "grams.npy"
    np.save(grams, index.grams.hashes)
    return index, Knowledge(grams, repeated)


def _rows(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        yield from map(Row.from_line, lines)


def _facts(gathering: Gathering, packed: Packed) -> dict[str, Any]:
    keep, rows = gathering.keep, gathering.rows
    sizes = {name: rows[name].column("lengths")[keep[name]] for name in rows}
    loss = {name: rows[name].column("loss")[keep[name]] for name in rows}
    return {
        "rows": {name: int(mask.sum()) for name, mask in keep.items()},
        "tokens": {name: int(values.sum(dtype=np.int64)) for name, values in sizes.items()},
        "loss_tokens": {name: int(values.sum(dtype=np.int64)) for name, values in loss.items()},
        "longest": int(max(values.max(initial=0) for values in sizes.values())),
        "dropped": dict(sorted(gathering.reasons.items())),
        "packs": {"count": packed.packs, "rows": packed.rows, "tokens": packed.tokens},
        "test_digest": gathering.test_digest(),
        "continues": _continues(gathering),
    }


def _continues(gathering: Gathering) -> dict[str, Any] | None:
    """Of the training rows: how many are new to the continued version, how many it has seen and sees again."""
    if (continued := gathering.continued) is None:
        return None
    new = gathering.rows["train"].after(continued.data)[gathering.keep["train"]]
    return {
        "reference": continued.reference, "data": continued.data, "new": int(new.sum()), "replayed": int((~new).sum()),
        "learned": gathering.reasons[blocks.LEARNED],
    }  # fmt: skip
