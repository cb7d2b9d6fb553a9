"""JSON files: an array of objects, one object, or objects one after the other (JSON lines with the wrong name).

An array is never held: its elements are cut out by brackets and commas, and each is parsed alone, so that one malformed
element does not hide the others.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import chain

from tasks.data.landing import json_lines, lines, strict
from tasks.data.landing.items import SHOWN, Found, Malformed, Unreadable, malformed, too_large
from tasks.data.landing.structure import CLOSING, COMMA, OPENING, Marks, is_unfinished

_CHUNK = 1 << 18
_SLACK = 1 << 12  # space after a row, not counted as part of it


def read(stream: io.BufferedReader, limit: int) -> Iterator[Found | Malformed]:
    """Unreadable: the text is neither an array nor an object, or it ends before they do."""
    line = _skip_space(stream)
    first = stream.peek(1)[:1]
    if first == b"[":
        stream.read(1)
        yield from _elements(_chunks(stream), limit)
    elif first == b"{":
        yield from _objects(stream, limit, line)
    elif first:
        raise Unreadable("its text is neither a JSON array nor a JSON object")


def _skip_space(stream: io.BufferedReader) -> int:
    """The number of the line on which the text begins."""
    line = 1
    while (space := stream.peek(1)[:1]) and space in strict.SPACE:
        line += stream.read(1) == b"\n"
    return line


def _chunks(stream: io.BufferedReader) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _objects(stream: io.BufferedReader, limit: int, line: int) -> Iterator[Found | Malformed]:
    """Line by line if the first line is whole: then a malformed line spoils no other."""
    physical = lines.split(stream, limit)
    first = next(physical)
    if isinstance(first, lines.Long) or not is_unfinished(first):
        yield from json_lines.rows(chain([first], physical), limit, line)
    else:
        yield from _values(chain([first], _chunks(stream)), limit)


class _Piece:
    """The bytes of the row that is being cut out; only its beginning, once it is above the limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        data = data if self._size else data.lstrip(strict.SPACE)
        self._size += len(data)
        self._parts.append(data)
        if self._size > self._limit + _SLACK:
            self._parts = [b"".join(self._parts)[: 4 * SHOWN]]

    @property
    def is_blank(self) -> bool:
        return not self._size

    def item(self, place: int) -> Found | Malformed:
        """The row; after that, the piece is empty."""
        data, size = b"".join(self._parts), self._size
        self._parts, self._size = [], 0
        if size > self._limit + _SLACK:
            return too_large(place, self._limit, data)
        if not size:
            return malformed(place, "not JSON: nothing stands between two commas", data)
        return strict.item(place, data.rstrip(strict.SPACE), self._limit)


def _elements(chunks: Iterator[bytes], limit: int) -> Iterator[Found | Malformed]:
    """The elements of the array whose opening bracket has been read."""
    marks, depth, place, piece = Marks(), 0, 1, _Piece(limit)
    for chunk in chunks:
        start = 0
        for at in marks.of(chunk):
            byte = chunk[at]
            if byte in OPENING:
                depth += 1
            elif byte == COMMA:
                if not depth:
                    piece.add(chunk[start:at])
                    yield piece.item(place)
                    start, place = at + 1, place + 1
            elif depth:
                depth -= 1
            else:
                piece.add(chunk[start:at])
                if place > 1 or not piece.is_blank:
                    yield piece.item(place)
                _check_end(chunk[at:], chunks)
                return
        piece.add(chunk[start:])
    raise Unreadable(f"the array is not closed: it stops in or after element {place}")


def _check_end(rest: bytes, chunks: Iterable[bytes]) -> None:
    if rest[:1] != b"]" or rest[1:].strip(strict.SPACE) or any(chunk.strip(strict.SPACE) for chunk in chunks):
        raise Unreadable("the array is closed, but more text comes after it")


def _values(chunks: Iterable[bytes], limit: int) -> Iterator[Found | Malformed]:
    """Values one after the other, each over as many lines as it likes."""
    marks, depth, place, piece = Marks(), 0, 1, _Piece(limit)
    for chunk in chunks:
        start = 0
        for at in marks.of(chunk):
            if chunk[at] in OPENING:
                depth += 1
            elif chunk[at] in CLOSING:
                depth = max(0, depth - 1)
                if not depth:
                    piece.add(chunk[start : at + 1])
                    yield piece.item(place)
                    start, place = at + 1, place + 1
        piece.add(chunk[start:])
    if depth or marks.inside:
        raise Unreadable(f"it stops in the middle of object {place}")
    if not piece.is_blank:
        yield piece.item(place)
