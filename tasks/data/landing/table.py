"""CSV and TSV (RFC 4180): a header, then rows of as many cells; every value is text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from tasks.data.landing import lines
from tasks.data.landing.items import Found, Malformed, Unreadable, malformed


class _TooLarge(Exception):  # told from the feed to the reader through `csv`
    pass


class _Feed:
    """Physical lines for `csv.reader`, which takes as many as a row has; keeps those of the present row."""

    def __init__(self, physical: Iterator[bytes | lines.Long], limit: int) -> None:
        self._physical = physical
        self._limit = limit
        self.number = 0
        self.begin()

    def begin(self) -> None:
        """The next line is the first of a row."""
        self.start = self.number + 1
        self.held: list[bytes] = []
        self.fault = ""
        self.ended = False
        self._size = self._quotes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._physical, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        if isinstance(line, lines.Long):
            self.held.append(line.head)
            self._quotes += line.quotes
            raise _TooLarge
        self.held.append(line)
        self._size += len(line)
        self._quotes += line.count(b'"')
        if self._size > self._limit + 2:
            raise _TooLarge
        return self._decoded(line)

    def _decoded(self, line: bytes) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            position = f"at position {error.start + 1} of line {self.number}"
            self.fault = f"not UTF-8: byte 0x{line[error.start]:02x} {position}"
            return line.decode("utf-8", "replace")

    def skip_row(self) -> None:
        """Go on to the end of a row whose quotes are still open, holding none of it."""
        while self._quotes % 2:
            line = next(self._physical, None)
            if line is None:
                raise Unreadable(f"it stops inside the quotes that the row at line {self.start} opens")
            self.number += 1
            self._quotes += line.quotes if isinstance(line, lines.Long) else line.count(b'"')

    def malformed(self, reason: str) -> Malformed:
        """The present row; a row of several lines says so, for a stray quotation mark swallows rows."""
        over = f" (the row goes on to line {self.number})" if self.number > self.start else ""
        return malformed(self.start, reason + over, b"".join(self.held)[:4000])


def read(stream: io.BufferedReader, limit: int, delimiter: str) -> Iterator[Found | Malformed]:
    """Unreadable: the header names no columns, names one twice or not at all; or quotes are never closed."""
    # The library's own limit is one for the whole process: never lower it for another reader.
    csv.field_size_limit(max(csv.field_size_limit(), limit + 2))
    feed = _Feed(lines.split(stream, limit), limit)
    cells = csv.reader(feed, delimiter=delimiter, strict=True)
    header = _header(feed, cells)
    while header:
        feed.begin()
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            yield _refused(feed, error)
        except _TooLarge:
            feed.skip_row()
            yield feed.malformed(f"the row has more than {limit} bytes (data.max_row_bytes)")
        else:
            if row:
                yield _item(feed, header, row)


def _refused(feed: _Feed, error: csv.Error) -> Malformed:
    if feed.ended:
        raise Unreadable(f"it stops inside the quotes that the row at line {feed.start} opens") from None
    return feed.malformed(f"not a row of the table: {error}")


def _item(feed: _Feed, header: list[str], row: list[str]) -> Found | Malformed:
    if feed.fault:
        return feed.malformed(feed.fault)
    if len(row) != len(header):
        return feed.malformed(f"{len(row)} cells where the header names {len(header)} columns")
    return Found(feed.start, dict(zip(header, row, strict=True)))


def _header(feed: _Feed, cells: Iterator[list[str]]) -> list[str]:
    """The names of the columns; none, if the file is blank."""
    try:
        header = next((row for row in cells if row), [])
    except csv.Error as error:
        raise Unreadable(f"the header can't be read: {error}") from None
    except _TooLarge:
        raise Unreadable("the header is larger than a row may be (data.max_row_bytes)") from None
    if feed.fault:
        raise Unreadable(f"the header is {feed.fault}")
    if any(not name.strip() for name in header):
        raise Unreadable(f"column {[not name.strip() for name in header].index(True) + 1} of the header has no name")
    if len(set(header)) < len(header):
        seen: set[str] = set()
        twice = next(name for name in header if name in seen or seen.add(name))
        raise Unreadable(f"the header names the column {twice[:100]!r} twice")
    return header
