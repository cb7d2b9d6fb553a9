"""Where files arrive: an S3 prefix or a local folder, listed and brought one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.core import digest
from tasks.core.errors import ConflictError, DataError
from tasks.data.landing import is_landing_file
from tasks.storage.store import Store


@dataclass(frozen=True)
class LandingFile:
    """One file as the listing shows it. `etag` changes with the bytes: the store's entity tag, or a SHA-256."""

    key: str
    etag: str
    size: int


class Landing(Protocol):
    """A place where files arrive. `name` is its address, `source` what rows from it are called by default."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    def files(self) -> Iterator[LandingFile]:
        """Every landing file, in the order of the keys."""
        ...

    def bring(self, file: LandingFile, to: Path) -> None:
        """Copy the file's bytes. DataError: it was removed or replaced since it was listed, so it is next time's."""
        ...


def place(where: str, environ: Mapping[str, str]) -> Landing:
    """The landing at `s3://BUCKET/PREFIX` or in a local folder (or one file). DataError: there is no such folder."""
    if where.startswith("s3://"):
        return Bucket(Store.open(where, environ))
    path = Path(where)
    if not path.exists():
        raise DataError(
            f"{where}: there is no such file or folder; give a landing folder, a file, or s3://BUCKET/PREFIX"
        )
    return Folder(path.absolute())


def source_of(landing: Landing, key: str) -> str:
    """The source of a file's rows: the folder it lies in below the landing, else the landing itself."""
    folder, slash, _ = key.partition("/")
    return folder if slash else landing.source


@dataclass(frozen=True)
class Folder:
    """A local folder, with all below it, or one file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path if self.path.is_dir() else self.path.parent)

    @property
    def source(self) -> str:
        return Path(self.name).name

    def files(self) -> Iterator[LandingFile]:
        root = Path(self.name)
        paths = sorted(path for path in root.rglob("*") if path.is_file()) if self.path.is_dir() else [self.path]
        for path in paths:
            key = path.relative_to(root).as_posix()
            if path == self.path or (is_landing_file(path.name) and not _hidden(key)):
                try:
                    yield LandingFile(key, digest.of_file(path), path.stat().st_size)
                except FileNotFoundError:
                    continue  # gone since the folder was listed: as if it had never been there

    def bring(self, file: LandingFile, to: Path) -> None:
        try:
            shutil.copyfile(Path(self.name) / file.key, to)
        except FileNotFoundError:
            raise _vanished(file) from None
        if digest.of_file(to) != file.etag:
            raise _vanished(file)


def _hidden(key: str) -> bool:
    return any(part.startswith((".", "_")) for part in key.split("/")[:-1])


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket, with all below it."""

    store: Store

    @property
    def name(self) -> str:
        return self.store.url

    @property
    def source(self) -> str:
        return self.store.url.rpartition("/")[2]

    def files(self) -> Iterator[LandingFile]:
        for item in self.store.items(""):
            if is_landing_file(item.key.rpartition("/")[2]) and not _hidden(item.key):
                yield LandingFile(item.key, item.etag, item.size)

    def bring(self, file: LandingFile, to: Path) -> None:
        head = self.store.head(file.key)
        if head is None or head.etag != file.etag:
            raise _vanished(file)
        try:
            with to.open("wb") as out:
                out.writelines(self.store.chunks(file.key, head))
        except ConflictError:
            raise _vanished(file) from None


def _vanished(file: LandingFile) -> DataError:
    return DataError(f"{file.key} was removed or replaced while it was read")
