"""GGUF files seen as bytes: their metadata, and where each tensor lies. Neither numpy nor torch.

Format: magic, version, two counts, key-values, tensor table, then the data from the next multiple of the alignment
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A file comes from anywhere, so no number in it is believed
before it was compared with what is left of the file: time and memory are bounded by the file and by the limits here.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.core.errors import ModelError
from tasks.ml.gguf_base.blocks import KINDS, Kind

ENTRIES = 1 << 16
"""Key-values, and tensors; the largest published models have some thousands."""
VALUES = 3 << 19
"""Array elements in all; the largest vocabulary known (262,144 with scores, types and merges) has 1.3 million."""
HEAD = 64 << 20
"""Bytes before the tensors' data; that vocabulary takes 15 MiB."""
TEXT = 4 << 20
"""Bytes in one text value."""
NAME = 1 << 10
"""Bytes in a key or a tensor's name."""

_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DEFAULT_ALIGNMENT = 32
_LENGTH = struct.Struct("<Q")

Value = int | float | bool | str | tuple[int | float | bool, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """`shape` in torch's order, the row last; `start` and `end` are byte offsets in the file."""

    kind: Kind
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Gguf:
    """`data` is the whole file, mapped and not yet read."""

    file: Path
    data: mmap.mmap
    values: Mapping[str, Value]
    tensors: Mapping[str, Tensor]


def refuse(file: Path, what: str) -> NoReturn:
    raise ModelError(f"{file} can't be read as a GGUF model: {what}. Fetch the file anew, or take another")


def read(file: Path) -> Gguf:
    """Parse everything but the tensors' data. ModelError: damaged, hostile, or of a version or type not known here."""
    size = file.stat().st_size
    if size < 24:
        refuse(file, f"it has {size} bytes")
    with file.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(file, data, min(size, HEAD))
    if data[:4] != b"GGUF":
        refuse(file, "its first bytes are not GGUF")
    cursor.skip(4)
    version = cursor.number("I")
    if version not in (2, 3):
        refuse(file, f"its version is {version}; known: 2, 3 (little-endian)")
    tensors, values = cursor.count(ENTRIES, 24, "tensors"), cursor.count(ENTRIES, 13, "key-values")
    metadata = _metadata(cursor, values)
    table = _table(cursor, tensors)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        refuse(file, f"general.alignment is {alignment!r}, not a power of two")
    start = -(-cursor.place // alignment) * alignment
    return Gguf(file, data, metadata, _placed(file, table, start, size))


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text(NAME)
        if key in found:
            refuse(cursor.file, f"the key {key!r} stands twice")
        found[key] = cursor.value()
    return found


def _table(cursor: _Cursor, count: int) -> dict[str, tuple[Kind, tuple[int, ...], int]]:
    """Name -> kind, shape, and offset from the start of the data."""
    found: dict[str, tuple[Kind, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.text(NAME)
        if name in found:
            refuse(cursor.file, f"the tensor {name!r} stands twice")
        dimensions = cursor.number("I")
        if not 1 <= dimensions <= 4:
            refuse(cursor.file, f"the tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed(cursor.numbers("Q", dimensions)))
        number, offset = cursor.number("I"), cursor.number("Q")
        kind = KINDS.get(number)
        if kind is None:
            known = ", ".join(known.name for known in KINDS.values())
            refuse(cursor.file, f"the tensor {name!r} is of type {number}; known: {known}")
        if min(shape) < 1 or shape[-1] % kind.elements:
            refuse(cursor.file, f"the tensor {name!r} has the shape {shape}, which {kind.name} can't hold")
        found[name] = kind, shape, offset
    return found


def _placed(
    file: Path, table: Mapping[str, tuple[Kind, tuple[int, ...], int]], start: int, size: int
) -> dict[str, Tensor]:
    """Every tensor inside the file and none over another."""
    placed = {
        name: Tensor(kind, shape, start + offset, start + offset + math.prod(shape) // kind.elements * kind.size)
        for name, (kind, shape, offset) in table.items()
    }
    reached = start
    for name, tensor in sorted(placed.items(), key=lambda item: item[1].start):
        if tensor.end > size:
            refuse(file, f"the tensor {name!r} ends at byte {tensor.end}, the file at {size}: it is truncated")
        if tensor.start < reached:
            refuse(file, f"the tensor {name!r} lies over another")
        reached = tensor.end
    return placed


class _Cursor:
    """Reads forward through the head of the file."""

    def __init__(self, file: Path, data: mmap.mmap, end: int) -> None:
        self.file, self.place = file, 0
        self._data, self._end, self._values = data, end, VALUES

    def skip(self, size: int) -> int:
        """Where the next `size` bytes begin, after making sure that they are there."""
        start = self.place
        if size > self._end - start:
            refuse(self.file, f"byte {start} announces {size} bytes, and {self._end - start} are left")
        self.place = start + size
        return start

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        return struct.unpack_from(f"<{count}{code}", self._data, self.skip(count * struct.calcsize(f"<{code}")))

    def count(self, most: int, least_size: int, what: str) -> int:
        """A number of things to come, of which each takes at least so many bytes."""
        number = self.number("Q")
        if number > min(most, (self._end - self.place) // least_size):
            refuse(self.file, f"it announces {number} {what} in {self._end - self.place} bytes (at most {most})")
        return number

    def text(self, most: int) -> str:
        size = self.number("Q")
        if size > most:
            refuse(self.file, f"byte {self.place} announces a text of {size} bytes (at most {most})")
        start = self.skip(size)
        try:
            return self._data[start : self.place].decode()
        except UnicodeDecodeError:
            refuse(self.file, f"the text at byte {start} is not UTF-8")

    def value(self) -> Value:
        code = self.number("I")
        if code == _STRING:
            return self.text(TEXT)
        if code == _ARRAY:
            return self._array()
        if code not in _NUMBERS:
            refuse(self.file, f"a value is of type {code} at byte {self.place}")
        return self.number(_NUMBERS[code])

    def _array(self) -> Value:
        code = self.number("I")
        if code != _STRING and code not in _NUMBERS:
            refuse(self.file, f"an array holds values of type {code} at byte {self.place}")
        least = 8 if code == _STRING else struct.calcsize(f"<{_NUMBERS[code]}")
        count = self.count(self._values, least, "values")
        self._values -= count
        return self._texts(count) if code == _STRING else self.numbers(_NUMBERS[code], count)

    def _texts(self, count: int) -> tuple[str, ...]:
        """A vocabulary or its merges: most of the parsing, so written out."""
        data, place, end, length = self._data, self.place, self._end, _LENGTH.unpack_from
        texts, start = list[str](), place
        try:
            for _ in range(count):
                start = place + 8
                if start > end or (place := start + length(data, place)[0]) > end:
                    refuse(self.file, f"a text at byte {start - 8} is longer than what is left")
                texts.append(data[start:place].decode())
        except UnicodeDecodeError:
            refuse(self.file, f"the text at byte {start} is not UTF-8")
        self.place = place
        return tuple(texts)
