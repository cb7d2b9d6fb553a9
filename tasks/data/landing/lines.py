"""Physical lines in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.data.landing.items import SHOWN

_STEP = 1 << 16


@dataclass(frozen=True, slots=True)
class Long:
    """A line above the limit: its beginning, and how many quotation marks the whole of it has."""

    head: bytes
    quotes: int


def split(stream: io.BufferedReader, limit: int) -> Iterator[bytes | Long]:
    """Lines with their ends, at a line feed only. Never holds more than `limit` bytes and a constant."""
    room = limit + 2  # a line of exactly `limit` bytes, and its end
    while line := stream.readline(room):
        yield line if len(line) < room or line.endswith(b"\n") else _skip(stream, line)


def _skip(stream: io.BufferedReader, line: bytes) -> Long:
    head, quotes = line[: 4 * SHOWN], line.count(b'"')
    while line and not line.endswith(b"\n"):
        line = stream.readline(_STEP)
        quotes += line.count(b'"')
    return Long(head, quotes)
