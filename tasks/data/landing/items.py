"""What reading a landing file gives: a value that was found, or a row that can't be read. And what it may raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.core.errors import DataError

SHOWN = 500
"""Characters of a malformed row that are kept to show it."""


class Unreadable(DataError):
    """The file as a whole can't be read to its end: leave it for the next time, and name it."""


@dataclass(frozen=True, slots=True)
class Found:
    """One JSON object. `place` is a line number (JSON lines, CSV: where the row starts), or the number of the element
    or row (JSON array, Parquet), from 1."""

    place: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that can't be read; the rows after it can. `text` is its beginning, for the reader's eye."""

    place: int
    reason: str
    text: str


def malformed(place: int, reason: str, data: bytes) -> Malformed:
    """The row shown by its first characters; bytes that are no UTF-8 become U+FFFD."""
    return Malformed(place, reason, data[: 4 * SHOWN].decode("utf-8", "replace")[:SHOWN])


def too_large(place: int, limit: int, data: bytes) -> Malformed:
    return malformed(place, f"the row has more than {limit} bytes (data.max_row_bytes)", data)
