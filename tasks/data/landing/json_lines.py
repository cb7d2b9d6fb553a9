"""JSON lines: one object a line; blank lines are nothing."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from tasks.data.landing import lines, strict
from tasks.data.landing.items import Found, Malformed, Unreadable, too_large
from tasks.data.landing.structure import is_unfinished


def read(stream: io.BufferedReader, limit: int) -> Iterator[Found | Malformed]:
    return rows(lines.split(stream, limit), limit)


def rows(physical: Iterable[bytes | lines.Long], limit: int, first: int = 1) -> Iterator[Found | Malformed]:
    """Unreadable: the last line has no end and its object neither, so the file was cut."""
    for number, line in enumerate(physical, start=first):
        if isinstance(line, lines.Long):
            yield too_large(number, limit, line.head)
        elif data := line.strip(strict.SPACE):
            item = strict.item(number, data, limit)
            if isinstance(item, Malformed) and not line.endswith(b"\n") and is_unfinished(data):
                raise Unreadable(f"the last line ({number}) stops in the middle of its object")
            yield item
