"""One block of rows on its way to the training set: what each worker process does with it.

Blocks are independent of each other, so that memory depends on their size and not on the corpus, and the result not on
the number of processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core import manifest
from tasks.core.continued import Continued
from tasks.core.sections import PrepareParams
from tasks.data import chatset, shards, splits
from tasks.data.profile import Accumulator, Profile
from tasks.data.quality import answers, contamination, near_duplicates
from tasks.data.quality.answers import Repeats
from tasks.data.quality.contamination import Hits
from tasks.data.quality.examination import examine
from tasks.data.quality.finding import Examined, Finding
from tasks.data.quality.tally import Tally
from tasks.data.rows import Row
from tasks.data.splits import Split
from tasks.data.tokens import ChatTokenizer

ROWS = 2_000
BYTES = 4 << 20
"""A block ends at whichever comes first."""

TOO_LONG, UNFIT, HELD_OUT = "longer than max_length", "does not fit the model", "held out"
LEARNED = "learned before"
MISFITS = (TOO_LONG, UNFIT)
"""Reasons that say something against the params or the model rather than against the row."""


@dataclass(frozen=True)
class Job:
    """`lines` are canonical rows that data version `version` brought; `number` is the block's place."""

    number: int
    version: int
    lines: list[bytes]


def jobs(corpus: Path) -> Iterator[Job]:
    """The corpus in blocks, in the order in which its rows came."""
    number = 0
    for shard in shards.files(corpus):
        for lines in _blocks(shards.lines(shard)):
            yield Job(number, shards.version(shard), lines)
            number += 1


def _blocks(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    block, size = list[bytes](), 0
    for line in lines:
        block.append(line)
        size += len(line)
        if len(block) == ROWS or size >= BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


@dataclass(frozen=True)
class Dropped:
    """A row that is not in the training set, and why."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Kept:
    """The rows of one split of a block, in order; arrays have shape (rows,), `signatures` (rows, permutations).
    `file` has their tokens; `points` are hashes in [0, 1), `groups` of the prompts, `hits` where test rows' words are."""

    file: Path
    ids: list[str]
    sources: list[str]
    digests: list[str]
    lengths: np.ndarray
    loss: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    signatures: np.ndarray
    hits: Hits | None
    profile: Profile

    def light(self) -> Kept:
        """Without what has been taken elsewhere: a few bytes a row remain."""
        nothing = np.empty((0, 0), np.uint32)  # an empty slice would keep the whole array
        return replace(self, ids=[], sources=[], signatures=nothing, hits=None, profile=Profile())


@dataclass(frozen=True)
class Block:
    """What became of a block's rows; `rest` is the profile of those that are in no split,
    `tools` how the base writes tools.

    Law: every row is in one split, or in `dropped`.
    """

    version: int
    rows: int
    kept: dict[Split, Kept]
    dropped: list[Dropped]
    rest: Profile
    tally: Tally
    tools: str


@dataclass(frozen=True)
class Scouted:
    """What has to be known of all rows before any can be judged: the test rows, and how often each answer is given."""

    rows: int
    test: list[bytes]
    repeats: Repeats


@dataclass(frozen=True)
class Knowledge:
    """What the scouts found. `grams` is the file of the test rows' sorted gram hashes; `repeated` counts prompts."""

    grams: Path | None = None
    repeated: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass
class _Worker:
    params: PrepareParams
    tokenizer: ChatTokenizer
    scratch: Path
    continued: Continued | None


_worker: list[_Worker] = []


def begin(params: PrepareParams, base: Path, scratch: Path) -> None:
    """Make this process a worker: load the tokenizer once."""
    _worker[:] = [_Worker(params, ChatTokenizer(base), scratch, Continued.of(manifest.read(base)))]


def scout(job: Job) -> Scouted:
    (worker,) = _worker
    test, keys = list[bytes](), dict[tuple[str, int], None]()
    for line in job.lines:
        row = Row.from_line(line)
        group = row.group
        keys[group, answers.key(row)] = None
        if _split(group, job.version, worker.params) == "test":
            test.append(line)
    return Scouted(len(job.lines), test, Repeats.of(key for _, key in keys))


def _split(group: str, version: int, params: PrepareParams) -> Split | None:
    """None: it would be a test row, but came after the test set was frozen."""
    split = splits.place(group, params.splits, params.salt)
    frozen = params.splits.test_until is not None and version > params.splits.test_until
    return None if split == "test" and frozen else split


@dataclass(frozen=True)
class _Chosen:
    """A row that is in a split so far."""

    row: Row
    group: str


def encode(work: tuple[Job, Knowledge]) -> Block:
    """Judge the block's rows, render and tokenise those that stay, and leave their tokens in a file a split."""
    job, knowledge = work
    (worker,) = _worker
    chosen: dict[Split, list[_Chosen]] = {name: [] for name in splits.NAMES}
    dropped, rest, examined = list[Dropped](), Accumulator(), list[tuple[Row, Sequence[Finding]]]()
    for row in map(Row.from_line, job.lines):
        group = row.group
        split = _split(group, job.version, worker.params)
        if split is None:
            dropped.append(Dropped(row.id, HELD_OUT, "came after the test set was frozen"))
            rest.add(row)
            continue
        if split == "train" and not learns(row, job.version, worker.params, worker.continued):
            dropped.append(Dropped(row.id, LEARNED, "by the version that is continued, and not drawn to be replayed"))
            rest.add(row)
            continue
        found = _judge(row, worker.params, knowledge)
        if found.findings:
            examined.append((found.row, found.findings))
        if found.dropped and split != "test":
            reason = next(finding for finding in found.findings if finding.action == "drop")
            dropped.append(Dropped(row.id, reason.rule, reason.detail))
            rest.add(row)
        else:
            chosen[split].append(_Chosen(found.row, group))
    kept: dict[Split, Kept] = {}
    for split, rows in chosen.items():
        if rows and (fitting := _keep(job, split, rows, knowledge, dropped, rest)):
            kept[split] = fitting
    return Block(job.version, len(job.lines), kept, dropped, rest.profile(), Tally.of(examined), worker.tokenizer.tools)


def learns(row: Row, version: int, params: PrepareParams, continued: Continued | None) -> bool:
    """Whether a training row of data version `version` trains: every new one, and `replay` of those that the continued
    version knows. Laws: more rows change no row's answer; another version to continue from draws anew."""
    if continued is None or version > continued.data:
        return True
    key = f"{params.salt}\0replay\0{continued.data}\0{row.content_digest}".encode()
    return _unit(key) < params.replay


def _judge(row: Row, params: PrepareParams, knowledge: Knowledge) -> Examined:
    found, rule = examine(row, params.quality), params.quality.answers
    if rule.repeated == "ignore" or (prompts := knowledge.repeated.get(answers.key(row), 0)) == 0:
        return found
    repeated = Finding("answers.repeated", rule.repeated, f"{prompts} prompts have this answer")
    return Examined(found.row, (*found.findings, repeated))


def _keep(
    job: Job, split: Split, chosen: Sequence[_Chosen], knowledge: Knowledge, dropped: list[Dropped], rest: Accumulator
) -> Kept | None:
    """Tokenise the rows of a split; those that don't fit are dropped by name."""
    (worker,) = _worker
    flat = worker.tokenizer.encode_flat([each.row for each in chosen])
    lengths = np.diff(flat.stops, prepend=0)
    fits = (lengths > 0) & (lengths <= worker.params.max_length)
    for place in np.flatnonzero(~fits).tolist():
        row, refused = chosen[place].row, flat.refused.get(place)
        reason, detail = (UNFIT, str(refused)) if refused else (TOO_LONG, f"{lengths[place]} tokens")
        dropped.append(Dropped(row.id, reason, detail))
        rest.add(row)
    if not fits.any():
        return None
    file, tokens = worker.scratch / f"{job.number:07}-{split}.arrow", np.repeat(fits, lengths)
    fitting = [each for each, fit in zip(chosen, fits, strict=True) if fit]
    rows = [each.row for each in fitting]
    stops = np.concatenate([[0], np.cumsum(lengths[fits])])
    loss = flat.loss[tokens]
    task = worker.params.pack.tasks if split == "train" else None
    _write(file, rows, job.version, stops, flat.ids[tokens], loss, task)
    profile = Accumulator()
    for row in rows:
        profile.add(row)
    return Kept(
        file, [row.id for row in rows], [row.source for row in rows],
        [row.content_digest for row in rows] if split == "test" else [],
        lengths[fits].astype(np.int32), np.add.reduceat(loss, stops[:-1], dtype=np.int32),
        np.array([_point(worker.params.salt, row) for row in rows]),
        np.array([row.weight for row in rows], dtype=np.float32),
        np.array([int(each.group[:16], 16) for each in fitting], dtype=np.uint64),
        _signatures(rows, worker.params), _hits(rows, worker.params, knowledge) if split == "train" else None,
        profile.profile(),
    )  # fmt: skip


def _signatures(rows: Sequence[Row], params: PrepareParams) -> np.ndarray:
    if params.quality.near_duplicates.action == "ignore":
        return near_duplicates.signatures([])
    return near_duplicates.signatures([near_duplicates.text(row) for row in rows])


def _hits(rows: Sequence[Row], params: PrepareParams, knowledge: Knowledge) -> Hits | None:
    if knowledge.grams is None:
        return None
    return contamination.hits(_grams(knowledge.grams), rows, params.quality.contamination.ngram)


@cache
def _grams(file: Path) -> np.ndarray:
    """Mapped, so that all processes share one copy."""
    return np.load(file, mmap_mode="r")


def _point(salt: str, row: Row) -> float:
    """A hash in [0, 1), independent of the one that chose the split."""
    key = f"{salt}\0mix\0{row.id}\0{row.messages[-1].text}".encode()
    return _unit(key)


def _unit(key: bytes) -> float:
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def _write(
    file: Path,
    rows: Sequence[Row],
    version: int,
    stops: np.ndarray,
    ids: np.ndarray,
    loss: np.ndarray,
    task: str | None,
) -> None:
    """One Arrow file of examples; of those to be trained on, with a `task`, the tokens and that alone, as their one tag."""
    whole = task is None
    columns: dict[str, Any] = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "tags": pa.array([(_task(row, task),) if task else row.tags for row in rows], pa.list_(pa.string())),
        "messages": pa.array([_messages(row) if whole else "" for row in rows], pa.string()),
        "tools": pa.array([json.dumps(row.tools, ensure_ascii=False) if whole else "" for row in rows], pa.string()),
        "version": pa.array([version] * len(rows), pa.int32()),
        "ids": chatset.lists(stops, ids, pa.int32()),
        "loss": chatset.lists(stops, loss, pa.bool_()),
    }
    batch = pa.record_batch([columns[name] for name in chatset.EXAMPLE.names], schema=chatset.EXAMPLE)
    with pa.ipc.new_file(str(file), chatset.EXAMPLE) as writer:
        writer.write_batch(batch)


def _task(row: Row, kind: str) -> str:
    return row.source if kind == "source" else next(iter(row.tags), "")


def _messages(row: Row) -> str:
    messages = [message.model_dump(mode="json", exclude_defaults=True) for message in row.messages]
    return json.dumps(messages, ensure_ascii=False)
