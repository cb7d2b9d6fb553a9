"""A version as one tar file: `<name>-v<N>/version.json`, its manifest, then every file in order."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.core.errors import ParamsError, ResourceError, from_os_error
from tasks.storage import blobs
from tasks.storage.model_version import Version
from tasks.storage.store import Store

MANIFEST = "version.json"


def export(store: Store, version: Version, file: Path) -> int:
    """Write the whole version; the bytes of the file.

    Laws: equal versions give equal bytes; the file is there whole, every digest checked, or not at all.
    ParamsError: something is there already. ResourceError: the disk is too small. IntegrityError: a blob is damaged.
    """
    if os.path.lexists(file):
        raise ParamsError(f"{file} exists: choose another name, or remove it")
    if MANIFEST in version.files:
        raise ParamsError(
            f"{version.reference} has a file {MANIFEST} of its own, so that it can't be exported: pull it"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(file.parent).free) < version.size:
            raise ResourceError(f"{file} needs {version.size} bytes and its disk has {free} free: free some space")
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.") as partial:
            _write(store, version, partial.file)
            partial.flush()
            os.fsync(partial.fileno())
            Path(partial.name).chmod(0o644)
            file.hardlink_to(partial.name)  # fails where a file has appeared meanwhile
        return file.stat().st_size
    except OSError as error:
        raise from_os_error(error, f"exporting {version.reference} to {file}") from None


def _write(store: Store, version: Version, out: IO[bytes]) -> None:
    meter = blobs.Meter("exported", version.size)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        data = version.to_bytes()
        tar.addfile(_member(version, MANIFEST, len(data)), io.BytesIO(data))
        for path in sorted(version.files):
            entry = version.files[path]
            chunks = blobs.stream(store, path, entry)
            tar.addfile(_member(version, path, entry.size), _Reader(chunks))
            for _ in chunks:
                pass  # the stream's own check comes with its end
            meter.add(entry.size)


def _member(version: Version, path: str, size: int) -> tarfile.TarInfo:
    """Without owner, time or mode of this machine."""
    member = tarfile.TarInfo(f"{version.name}-v{version.number}/{path}")
    member.size = size
    return member


class _Reader(io.RawIOBase):
    """What tarfile reads from: chunks of any size as reads of any size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, None)):
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
