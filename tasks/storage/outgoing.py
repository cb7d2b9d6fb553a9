"""A file on its way out, hashed as it is read: what leaves is what was measured, or it does not leave."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tasks.core.errors import IntegrityError
from tasks.core.manifest import FileEntry


class Outgoing:
    """The bytes of `file`, which must turn out to be `entry`; `path` is for the message.

    `progress` is told the bytes read since it was last told: fewer than none where they are read again.
    """

    def __init__(self, file: BinaryIO, path: Path, entry: FileEntry, progress: Callable[[int], None]) -> None:
        self.entry = entry
        self._file = file
        self._path = path
        self._progress = progress
        self._told = 0

    def parts(self, length: int) -> Iterator[bytes]:
        """The file from its beginning, so many bytes at a time, each read once.

        Law: the iteration ends only if everything it gave was `entry`, and gives no more than that; else IntegrityError.
        """
        self._tell(-self._told)
        self._file.seek(0)
        sha256, size = hashlib.sha256(), 0
        while (data := self._file.read(length)) and (size := size + len(data)) <= self.entry.size:
            sha256.update(data)
            self._tell(len(data))
            yield data
        if FileEntry(sha256=sha256.hexdigest(), size=size) != self.entry:
            raise IntegrityError(
                f"{self._path} changed while it was being sent ({size} bytes read, {self.entry.size} measured "
                "before, or another digest): let whatever writes it finish, then publish again"
            )

    def _tell(self, count: int) -> None:
        self._told += count
        self._progress(count)
