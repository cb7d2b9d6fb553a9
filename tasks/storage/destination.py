"""A folder that arrives from outside: in one piece, into an empty place, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks.core import digest
from tasks.core.errors import ParamsError, ResourceError
from tasks.core.manifest import FileEntry


def holds(folder: Path, files: Mapping[str, FileEntry]) -> bool:
    """Whether `folder` is exactly these files, byte for byte."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return found.keys() == files.keys() and all(
        not path.is_symlink() and path.stat().st_size == files[name].size and digest.of_file(path) == files[name].sha256
        for name, path in found.items()
    )


def check(folder: Path, size: int) -> None:
    """Refuse a place that is taken (ParamsError) or too small for `size` bytes (ResourceError)."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ParamsError(f"{folder} is a file or a link where a folder would go: choose another destination")
    if folder.exists() and any(folder.iterdir()):
        raise ParamsError(f"{folder} holds other files: move them away, or choose another destination")
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if (free := shutil.disk_usage(there).free) < size:
        raise ResourceError(
            f"{folder} needs {size} bytes and its disk has {free} free: free some space, then try again"
        )


@contextmanager
def arriving(folder: Path) -> Generator[Path]:
    """An empty folder `<folder>.partial` to fill, renamed to `folder` when the block ends without an error.

    Law: at every moment `folder` is what it was before or the whole new one. What a killed attempt left in
    the partial folder is removed; another attempt that is still alive is refused.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(descriptor, partial)
        try:
            _empty(partial)
            yield partial
            os.fsync(descriptor)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)
    _fsync(folder.parent)


def _lock(descriptor: int, partial: Path) -> None:
    """The lock ends with its process. The folder opened may have been renamed since, hence the second look."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(descriptor), partial.lstat())
    except (BlockingIOError, FileNotFoundError):
        same = False
    if not same:
        raise ResourceError(f"{partial} is being filled by another command: wait until that one has ended")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
