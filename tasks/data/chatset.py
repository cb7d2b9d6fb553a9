"""The training set on disk: packs in Arrow shards for training, one Parquet file each of examples for judging."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tasks.data.rows import Message

PACKS_A_BATCH = 64
PACKS_A_SHARD = 16_384

PACK = pa.schema(
    [
        ("rows", pa.list_(pa.string())),
        ("tasks", pa.list_(pa.string())),
        ("lengths", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("loss", pa.list_(pa.bool_())),
    ]
)
EXAMPLE = pa.schema(
    [
        ("id", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("messages", pa.string()),
        ("tools", pa.string()),
        ("version", pa.int32()),
        ("ids", pa.list_(pa.int32())),
        ("loss", pa.list_(pa.bool_())),
    ]
)


class Tokens(Protocol):
    """A row as the model reads it: `loss[i]` says whether predicting `ids[i]` counts. Equal lengths.

    `task`: of which one the row is, where several are learned together.
    """

    @property
    def id(self) -> str: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def loss(self) -> Sequence[bool]: ...
    @property
    def task(self) -> str: ...


class Reading(Protocol):
    """Packs of rows by their number, each read when it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Sequence[Tokens]: ...


@dataclass(frozen=True)
class Segment:
    """A row inside a pack."""

    id: str
    ids: list[int]
    loss: list[bool]
    task: str = ""


@dataclass(frozen=True)
class Example:
    """A row to be judged on; `messages` is the conversation and `tools` its functions, as JSON text.

    `version` is the number of the data version that brought it.
    """

    id: str
    tags: list[str]
    messages: str
    tools: str
    version: int
    ids: list[int]
    loss: list[bool]

    @property
    def task(self) -> str:
        """None: it is judged, not learned."""
        return ""

    @property
    def conversation(self) -> tuple[Message, ...]:
        return tuple(Message.model_validate(message) for message in json.loads(self.messages))

    @property
    def functions(self) -> tuple[dict[str, Any], ...]:
        return tuple(json.loads(self.tools))


def gather(file: Path, blocks: Iterable[tuple[Path, np.ndarray]]) -> None:
    """One Parquet file of the examples that the masks keep of Arrow files, a block in memory at a time.

    Law: equal examples give equal bytes.
    """
    with pyarrow.parquet.ParquetWriter(file, EXAMPLE, compression="zstd") as writer:
        for block, keep in blocks:
            with pa.OSFile(str(block), "rb") as source:
                writer.write_table(pa.ipc.open_file(source).read_all().filter(pa.array(keep)))


def read(file: Path) -> list[Example]:
    """The examples of one split, in their order."""
    table: Any = pyarrow.parquet.read_table(file)
    return [Example(**row) for row in cast("list[dict[str, Any]]", table.to_pylist())]


class PackWriter:
    """Writes packs as `00000.arrow`, `00001.arrow`, …, a batch in memory at a time. Law: equal packs give equal bytes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._batch, self._shard = folder, list[dict[str, Any]](), 0
        self._writer: Any = None
        self._left = 0

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(
        self, rows: Sequence[str], tasks: Sequence[str], lengths: Sequence[int], ids: np.ndarray, loss: np.ndarray
    ) -> None:
        """One pack: `ids` and `loss` have shape (tokens,), laid end to end as `lengths` says."""
        self._batch.append({"rows": rows, "tasks": tasks, "lengths": lengths, "ids": ids, "loss": loss})
        if len(self._batch) == PACKS_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._batch:
            return
        if not self._left:
            self._next()
        columns = [
            _column([pack[name] for pack in self._batch], PACK.field(name).type.value_type) for name in PACK.names
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=PACK))
        self._left -= len(self._batch)
        self._batch.clear()

    def _next(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = pa.ipc.new_file(str(self._folder / f"{self._shard:05}.arrow"), PACK)
        self._shard, self._left = self._shard + 1, PACKS_A_SHARD


def lists(stops: np.ndarray, flat: Any, kind: Any) -> Any:
    """A list column of `flat` values of type `kind`: list i ends where list i + 1 begins, at `stops[i + 1]`."""
    return pa.ListArray.from_arrays(stops.astype(np.int32), pa.array(flat, type=kind))


def _column(values: Sequence[Any], kind: Any) -> Any:
    stops = np.concatenate([[0], np.cumsum([len(value) for value in values])])
    flat = np.concatenate(values) if isinstance(values[0], np.ndarray) else [x for value in values for x in value]
    return lists(stops, flat, kind)


class Packs:
    """The packs of a folder, memory-mapped: `packs[i]` is a list of segments, read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._files = [pa.ipc.open_file(pa.memory_map(str(path))) for path in sorted(folder.glob("*.arrow"))]
        self._places = [(file, number) for file in self._files for number in range(file.num_record_batches)]
        sizes = [file.get_batch(number).num_rows for file, number in self._places]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def heaviest(self) -> int:
        """The number of the pack whose rows attend to most: the largest sum of squared lengths."""
        costs: list[np.ndarray] = []
        for file, number in self._places:
            column: Any = file.get_batch(number).column("lengths")
            stops = column.offsets.to_numpy().astype(np.int64)
            squares = np.concatenate([[0], np.cumsum(column.flatten().to_numpy().astype(np.int64) ** 2)])
            costs.append(np.diff(squares[stops - stops[0]]))
        return int(np.argmax(np.concatenate(costs)))

    def __getitem__(self, place: int) -> list[Segment]:
        if not 0 <= place < len(self):
            raise IndexError(place)
        batch = int(np.searchsorted(self._starts, place, side="right")) - 1
        file, number = self._places[batch]
        pack: Any = file.get_batch(number).slice(place - int(self._starts[batch]), 1).to_pylist()[0]
        return list(_segments(pack))

    def __iter__(self) -> Iterator[list[Segment]]:
        return (self[place] for place in range(len(self)))


def _segments(pack: Any) -> Iterator[Segment]:
    start = 0
    for id, task, length in zip(pack["rows"], pack["tasks"], pack["lengths"], strict=True):
        end = start + length
        yield Segment(id, pack["ids"][start:end], pack["loss"][start:end], task)
        start = end
