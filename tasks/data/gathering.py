"""What the blocks gave, in order: a few arrays in memory, the tokens in the blocks' files; and what needs all rows at once."""

from __future__ import annotations

import json
import mmap
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core import digest
from tasks.core.continued import Continued
from tasks.core.errors import DataError
from tasks.core.sections import PrepareParams
from tasks.data import best_fit, blocks, chatset, mixing, splits
from tasks.data.blocks import Block, Dropped, Kept
from tasks.data.mixing import Mixed
from tasks.data.profile import Profile
from tasks.data.quality import contamination, lengths, near_duplicates
from tasks.data.quality.contamination import Index, Leaks
from tasks.data.quality.lengths import Fences
from tasks.data.quality.tally import EXAMPLES, Tally
from tasks.data.splits import Split

ORDER: tuple[Split, ...] = ("test", "valid", "train")
"""Of two like rows in different splits the one that is judged on stays."""
OPEN_BLOCKS = 16


@dataclass
class Rows:
    """The rows of one split, in the corpus's order. Arrays have shape (rows,)."""

    kept: list[Kept] = field(default_factory=list[Kept])
    versions: list[int] = field(default_factory=list[int])
    ids: list[Any] = field(default_factory=list[Any])
    names: dict[str, int] = field(default_factory=dict[str, int])
    sources: list[np.ndarray] = field(default_factory=list[np.ndarray])
    profile: Profile = field(default_factory=Profile)

    def add(self, kept: Kept, version: int) -> None:
        self.versions.append(version)
        self.ids.append(pa.array(kept.ids, pa.string()))
        numbers = [self.names.setdefault(name, len(self.names)) for name in kept.sources]
        self.sources.append(np.array(numbers, dtype=np.int32))
        self.profile = self.profile.merge(kept.profile)
        self.kept.append(kept.light())

    def __len__(self) -> int:
        return sum(map(len, self.ids))

    def column(self, name: str) -> np.ndarray:
        parts: list[np.ndarray] = [getattr(kept, name) for kept in self.kept]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    @cached_property
    def source(self) -> np.ndarray:
        """The place of each row's source in `names`."""
        return np.concatenate([np.empty(0, np.int32), *self.sources])

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of each block's first row; last, that of all rows."""
        return np.concatenate([[0], np.cumsum([len(ids) for ids in self.ids], dtype=np.int64)])

    def place(self, row: int) -> tuple[int, int]:
        """The block of a row, and its place there."""
        block = int(np.searchsorted(self.starts, row, side="right")) - 1
        return block, row - int(self.starts[block])

    def id(self, row: int) -> str:
        block, place = self.place(row)
        return self.ids[block][place].as_py()

    def after(self, version: int) -> np.ndarray:
        """Which rows came after a data version; shape (rows,)."""
        return np.repeat(np.array(self.versions, dtype=np.int64) > version, [len(ids) for ids in self.ids])

    def masks(self, keep: np.ndarray) -> Iterator[tuple[Path, np.ndarray]]:
        for kept, start, end in zip(self.kept, self.starts, self.starts[1:], strict=False):
            yield kept.file, keep[start:end]


@dataclass
class _Found:
    """What a rule found among all rows; `first` are ids and details of the lowest ids, as many as a tally keeps."""

    rows: int = 0
    dropped: int = 0
    first: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def add(self, id: str, detail: str, *, dropped: bool) -> None:
        self.rows, self.dropped = self.rows + 1, self.dropped + dropped
        if len(self.first) < EXAMPLES or id < self.first[-1][0]:
            self.first = sorted([*self.first, (id, detail)])[:EXAMPLES]


@dataclass(frozen=True)
class Packed:
    """The packs as written, with `rows` rows (some of them more than once) and `tokens` tokens in all."""

    packs: int
    rows: int
    tokens: int


class Gathering:
    """Takes in blocks, then settles which rows stay and how often, then writes."""

    def __init__(self, params: PrepareParams, scratch: Path, index: Index | None, continued: Continued | None) -> None:
        self._params, self._scratch, self.continued = params, scratch, continued
        self._leaks = Leaks(index) if index is not None else None
        self.rows: dict[Split, Rows] = {name: Rows() for name in splits.NAMES}
        self.reasons, self.read = Counter[str](), 0
        self.by_version: dict[int, Profile] = {}
        self.tools = ""
        self._tally, self._late = Tally(), dict[str, _Found]()
        self._misfit = ""
        self.dropped_file = scratch / "dropped.jsonl"
        self._dropped = self.dropped_file.open("w", encoding="utf-8")
        self._signatures = {name: (scratch / f"{name}.signatures").open("wb") for name in splits.NAMES}
        self.keep: dict[Split, np.ndarray] = {}
        self.mixed = Mixed(np.empty(0, np.int32), {})
        self.fences = Fences(0, 0)

    def add(self, block: Block) -> None:
        self.read += block.rows
        self._tally += block.tally
        self.tools = block.tools
        seen = self.by_version.get(block.version, Profile()).merge(block.rest)
        for split, kept in block.kept.items():
            kept.signatures.tofile(self._signatures[split])
            if self._leaks is not None and kept.hits is not None:
                self._leaks.add(kept.hits, len(self.rows[split]))
            self.rows[split].add(kept, block.version)
            seen = seen.merge(kept.profile)
        self.by_version[block.version] = seen
        for dropped in block.dropped:
            self._drop(dropped)

    def settle(self) -> None:
        """What needs all rows: leaks, near duplicates, lengths, mixing. DataError as `check` says."""
        self.keep = {name: np.ones(len(rows), dtype=bool) for name, rows in self.rows.items()}
        if self._leaks is not None:
            self._contaminated(self._leaks)
        if self._params.quality.near_duplicates.action != "ignore":
            self._near_duplicates()
        self._outliers()
        self._mix()
        self._dropped.close()
        self._check()

    def _contaminated(self, leaks: Leaks) -> None:
        shares = leaks.shares(len(self.rows["train"]))
        for row in np.flatnonzero(shares >= contamination.SHARE):
            detail = f"{shares[row]:.0%} of the words of a test row's text"
            self._judge("train", int(row), "contamination", self._params.quality.contamination.action, detail)

    def _near_duplicates(self) -> None:
        together, place = self._scratch / "all.signatures", 0
        with together.open("wb") as file:
            for name in ORDER:
                self._signatures[name].close()
                with (self._scratch / f"{name}.signatures").open("rb") as part:
                    shutil.copyfileobj(part, file)
        total = sum(map(len, self.rows.values()))
        if not total:
            return
        similarity = self._params.quality.near_duplicates.similarity
        with together.open("rb") as file:
            # Pages that were read stay in the page cache, but no longer count as this process's memory.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            signatures = np.frombuffer(mapped, np.uint32).reshape(total, near_duplicates.PERMUTATIONS)
            found = near_duplicates.find(signatures, similarity, lambda: mapped.madvise(mmap.MADV_DONTNEED))
        for name in ORDER:
            for row in np.flatnonzero(found[place : place + len(self.rows[name])] != near_duplicates.NONE):
                self._like(name, int(row), *self._numbered(int(found[place + row])))
            place += len(self.rows[name])

    def _numbered(self, number: int) -> tuple[Split, int]:
        """The split, and the row in it, of a number over all splits in ORDER."""
        for name in ORDER:
            if number < len(self.rows[name]):
                return name, number
            number -= len(self.rows[name])
        raise IndexError(number)

    def _like(self, split: Split, row: int, other: Split, like: int) -> None:
        """One row is a near duplicate of an earlier one; of one in another split it would be a leak."""
        rules = self._params.quality
        rule = rules.near_duplicates if split == other else rules.contamination
        name = "near_duplicates" if split == other else "contamination"
        self._judge(split, row, name, rule.action, f"near duplicate of {self.rows[other].id(like)} in {other}")

    def _outliers(self) -> None:
        rule, sizes = self._params.quality.lengths, self.rows["train"].column("lengths")
        self.fences = lengths.fences(lengths.histogram(sizes), rule.quartiles)
        for row in np.flatnonzero((sizes < self.fences.low) | (sizes > self.fences.high)):
            for finding in lengths.examine(int(sizes[row]), self.fences, rule):
                self._judge("train", int(row), finding.rule, finding.action, finding.detail)

    def _judge(self, split: Split, row: int, rule: str, action: str, detail: str) -> None:
        """Count a finding; a training or validation row falls where the rule says so, a test row never."""
        if action == "ignore" or not self.keep[split][row]:
            return
        id, falls = self.rows[split].id(row), action == "drop" and split != "test"
        self._late.setdefault(rule, _Found()).add(id, detail, dropped=falls)
        if falls:
            self.keep[split][row] = False
            self._drop(Dropped(id, rule, detail))

    def findings(self) -> Tally:
        """What all rules found."""
        return sum(
            (Tally.counted(rule, found.rows, found.dropped, found.first) for rule, found in self._late.items()),
            self._tally,
        )

    def _mix(self) -> None:
        train, kept = self.rows["train"], np.flatnonzero(self.keep["train"])
        points, weights = train.column("points")[kept], train.column("weights")[kept]
        mixed = mixing.mix(train.source[kept], tuple(train.names), points, weights, self._params.mixing)
        copies = np.zeros(len(train), dtype=np.int32)
        copies[kept] = mixed.copies
        for row in kept[mixed.copies == 0]:
            self._drop(Dropped(train.id(int(row)), "mixing", "left out by its source's weight or cap"))
        self.keep["train"] &= copies > 0
        self.mixed = Mixed(copies, mixed.capped)

    def _drop(self, dropped: Dropped) -> None:
        self.reasons[dropped.reason] += 1
        if dropped.reason in blocks.MISFITS and not self._misfit:
            self._misfit = f"{dropped.id}: {dropped.detail}"
        line = {"id": dropped.id, "reason": dropped.reason, "detail": dropped.detail}
        self._dropped.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _check(self) -> None:
        """DataError: too many rows do not fit, or a split that is needed is empty."""
        misfits = sum(self.reasons[reason] for reason in blocks.MISFITS)
        if misfits > self._params.max_dropped * self.read:
            raise DataError(
                f"{misfits} of {self.read} rows do not fit the model, more than prepare.max_dropped="
                f"{self._params.max_dropped}; the first is {self._misfit}. Raise prepare.max_length, or look at the data"
            )
        if self.continued is not None and not self.keep["train"][self.rows["train"].after(self.continued.data)].any():
            raise DataError(
                f"no row to train on arrived after data v{self.continued.data}, which {self.continued.reference} has "
                "learned: bring new rows (tuneline data ingest), or set fetch.continue_from: null"
            )
        for name in ("train", "test"):
            if not self.keep[name].any():
                raise DataError(
                    f"no row fell to {name} ({self.read} rows in all, dropped: {json.dumps(dict(self.reasons))}): "
                    "bring more rows or raise its share"
                )

    def write(self, folder: Path) -> Packed:
        """`train/`, `valid.parquet` and `test.parquet`."""
        for name in ("valid", "test"):
            chatset.gather(folder / f"{name}.parquet", self.rows[name].masks(self.keep[name]))
        train, packs = self.rows["train"], 0
        sizes, order = train.column("lengths"), np.repeat(np.arange(len(train)), self.mixed.copies)
        with chatset.PackWriter(folder / "train") as writer:
            tokens = _Tokens(train)
            for pack in best_fit.plan(order, sizes, self._params.pack.tokens):
                writer.add(*tokens.of(pack))
                packs += 1
        return Packed(packs, len(order), int(sizes[order].sum(dtype=np.int64)))

    def test_digest(self) -> str:
        """Identity of the test rows, whatever their order, template and tokens."""
        return digest.of_value(sorted(name for kept in self.rows["test"].kept for name in kept.digests))


class _Tokens:
    """Random access to the tokens of a split's rows, a few blocks open at a time."""

    def __init__(self, rows: Rows) -> None:
        self._files = [kept.file for kept in rows.kept]
        self._open = lru_cache(OPEN_BLOCKS)(_open)
        numbers = np.arange(len(rows))
        self._blocks = np.searchsorted(rows.starts, numbers, side="right") - 1
        self._places = numbers - rows.starts[self._blocks]

    def of(self, rows: Sequence[int]) -> tuple[list[str], list[str], list[int], np.ndarray, np.ndarray]:
        """Ids, tasks and lengths of the rows, their token ids and their loss marks end to end."""
        names, tasks, sizes, ids, loss = list[str](), list[str](), list[int](), list[np.ndarray](), list[np.ndarray]()
        for block, place in zip(self._blocks[rows].tolist(), self._places[rows].tolist(), strict=True):
            opened = self._open(self._files[block])
            start, end = opened.stops[place], opened.stops[place + 1]
            names.append(opened.names[place])
            tasks.append(opened.tasks[place])
            sizes.append(end - start)
            ids.append(opened.ids[start:end])
            loss.append(opened.loss[start:end])
        return names, tasks, sizes, np.concatenate(ids), np.concatenate(loss)


@dataclass(frozen=True)
class _Opened:
    """A block's rows: row i has `ids[stops[i]:stops[i + 1]]` and as many loss marks."""

    names: list[str]
    tasks: list[str]
    stops: list[int]
    ids: np.ndarray
    loss: np.ndarray


def _open(file: Path) -> _Opened:
    with pa.OSFile(str(file), "rb") as source:
        (batch,) = pa.ipc.open_file(source).read_all().to_batches()
    ids, loss = batch.column("ids"), batch.column("loss")
    return _Opened(
        batch.column("id").to_pylist(), batch.column("tags").values.to_pylist(), ids.offsets.to_pylist(), ids.values.to_numpy(),
        loss.values.to_numpy(zero_copy_only=False),
    )  # fmt: skip
