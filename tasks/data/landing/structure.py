"""Where the brackets and commas of JSON stand, over the borders of chunks, without parsing it."""

from __future__ import annotations

import re
from collections.abc import Iterator

OPENING, CLOSING, COMMA = b"[{", b"]}", ord(",")
_QUOTE = ord('"')

# Possessive, so that a long string is passed once. A string that the chunk does not close matches up to the chunk's
# end, or up to a backslash whose other half is in the next chunk.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[\[\]{},]', re.DOTALL)
_REST = re.compile(rb'(?:[^"\\]++|\\.)*+("?)', re.DOTALL)


class Marks:
    """Remembers from chunk to chunk whether it stands inside a string."""

    def __init__(self) -> None:
        self.inside = False
        self._escaped = False

    def of(self, chunk: bytes) -> Iterator[int]:
        """Positions in the chunk of brackets and commas outside strings. The chunk holds one byte at least."""
        for match in _MARK.finditer(chunk, self._leave(chunk) if self.inside else 0):
            if match.group(1) is None:
                yield match.start()
            elif not match.group(1):
                self._enter(match.end(), chunk)

    def _enter(self, end: int, chunk: bytes) -> None:
        self.inside, self._escaped = True, end < len(chunk)

    def _leave(self, chunk: bytes) -> int:
        match = _REST.match(chunk, 1 if self._escaped else 0)
        assert match
        if match.group(1):
            self.inside = self._escaped = False
            return match.end()
        self._enter(match.end(), chunk)
        return len(chunk)


def is_unfinished(data: bytes) -> bool:
    """Whether an object or array begins here and does not end: the mark of a file that was cut."""
    marks, depth = Marks(), 0
    for at in marks.of(data):
        depth += 1 if data[at] in OPENING else -1 if data[at] in CLOSING else 0
    return data[:1] == b"{" and (marks.inside or depth > 0)
