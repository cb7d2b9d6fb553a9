"""Bytes that stay as they are: whole files are shared with the base where the file system can, ranges copied by the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tasks.ml import tensors

FICLONE = 0x40049409
"""The ioctl that lets two files share their blocks until one of them is written to (btrfs, XFS)."""
UNSHARED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""The kernel can't copy between these two files by itself."""
PIECE = 64 << 20
SMALL = 1 << 20


def can_share(source: Path, folder: Path) -> bool:
    """Whether a file in the folder can be the same bytes on the disk."""
    return source.resolve().stat().st_dev == folder.stat().st_dev


def take(source: Path, target: Path) -> None:
    """The same file in another folder: blocks shared, else a hard link, else a copy."""
    source = source.resolve()  # DVC may have linked it to its cache
    with source.open("rb") as old, target.open("wb") as new, suppress(OSError):
        fcntl.ioctl(new, FICLONE, old.fileno())
        return
    target.unlink()
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def copy(source: int, start: int, count: int, target: int, place: int, told: Callable[[int], None]) -> None:
    """`count` bytes of an open file, from `start` on, to `place` of another. `told` of each piece that is done."""
    while count:
        done = _piece(source, start, min(count, PIECE), target, place)
        if not done:
            raise OSError(errno.EIO, f"the file ends {count} bytes early")
        start, place, count = start + done, place + done, count - done
        told(done)


def _piece(source: int, start: int, count: int, target: int, place: int) -> int:
    try:
        return os.copy_file_range(source, target, count, start, place)
    except OSError as error:
        if error.errno not in UNSHARED:
            raise
    data = os.pread(source, min(count, SMALL), start)
    tensors.write_bytes(target, data, place)
    return len(data)
