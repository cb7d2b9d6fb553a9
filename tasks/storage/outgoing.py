"""A file on its way out, hashed as it is read: what leaves is what was measured, or it does not leave."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tasks.core.errors import IntegrityError
from tasks.core.manifest import FileEntry


class Outgoing:
    """A readable stream over `file` that must turn out to be `entry`; `path` is for the message.

    Law: before the read that ends the stream returns, everything read equals `entry`, else IntegrityError.
    It does not seek, so whoever sends it takes the bytes once and in order.
    """

    def __init__(self, file: BinaryIO, path: Path, entry: FileEntry, progress: Callable[[int], None]) -> None:
        self._file = file
        self._path = path
        self._entry = entry
        self._progress = progress
        self._hash = hashlib.sha256()
        self._size = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, amount: int | None = None) -> bytes:
        data = self._file.read(-1 if amount is None else amount)
        self._hash.update(data)
        self._size += len(data)
        if amount is None or amount < 0 or len(data) < amount:
            self._check()
        self._progress(len(data))
        return data

    def _check(self) -> None:
        if FileEntry(sha256=self._hash.hexdigest(), size=self._size) != self._entry:
            raise IntegrityError(
                f"{self._path} changed while it was being sent ({self._size} bytes read, {self._entry.size} measured "
                "before, or another digest): let whatever writes it finish, then publish again"
            )
