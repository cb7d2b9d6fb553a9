"""Model versions on any S3 store that honours conditional writes: no server, no database.

    registry.json                          format of everything below
    blobs/sha256/<aa>/<digest>             immutable bytes, each once
    models/<name>/versions/v<N>.json       immutable manifest, written last: the moment of registering
    models/<name>/log/<time>-<id>.json     append-only audit

Blobs are content-addressed, so racing or repeated uploads are harmless; only the manifest's conditional
write decides. A publisher that dies before it leaves blobs that the next one uses, and no version.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tasks.core import events
from tasks.core.errors import (
    ConflictError,
    DataError,
    IntegrityError,
    ParamsError,
    StorageError,
    from_os_error,
)
from tasks.core.manifest import FileEntry
from tasks.storage import blobs, destination
from tasks.storage.model_version import (
    LogEntry,
    Version,
    check_name,
    draft,
    is_name,
    number_in,
    parse,
    parse_reference,
)
from tasks.storage.store import SMALL, Store

DEFAULT_REGISTRY = "s3://tuneline/registry"
FORMAT = 1
FORMAT_KEY = "registry.json"
STALE = timedelta(days=1)
"""An upload that has not ended by then belongs to a publisher that died."""


class Format(BaseModel):
    """`registry.json`. Later formats may say more, so nothing else in it is an error."""

    format: int


@dataclass(frozen=True)
class Published:
    """The version that now stands, whether this call made it, and what that cost in bytes of distinct files."""

    version: Version
    created: bool
    uploaded_bytes: int
    reused_bytes: int


@dataclass(frozen=True)
class Registry:
    """The model versions in a store.

    Every method may raise the store's errors, and IntegrityError where what the store holds is damaged.
    """

    store: Store

    @classmethod
    def open(cls, environ: Mapping[str, str]) -> Registry:
        """The registry that `TUNELINE_REGISTRY` names."""
        return cls(Store.open(environ.get("TUNELINE_REGISTRY", DEFAULT_REGISTRY), environ))

    def uri(self, version: Version) -> str:
        return self.store.at(_manifest(version.name, version.number))

    def publish(
        self,
        name: str,
        files: Mapping[str, Path],
        identity: str,
        record: Mapping[str, Any],
        now: datetime,
        who: str,
    ) -> Published:
        """Register files as the next version of `name`, or find the version that this `identity` already is.

        Laws: publishing an identity twice is one version, and the second time writes nothing; numbers go 1, 2, 3
        without gaps, whoever races; a version's blobs are all there before it is; killed anywhere, a publisher
        leaves a whole version or none, and the audit line is the only thing that a version may lack.
        DataError for paths or a record that can't be published, ParamsError for a bad name, IntegrityError
        for a file that changes meanwhile, ResourceError for one that can't be read.
        """
        self._check_format(begin=True)
        numbers = self._numbers(check_name(name))
        for known in self._read_all(name, numbers):
            if known.identity == identity:
                return Published(known, created=False, uploaded_bytes=0, reused_bytes=known.size)
        try:
            wanted = _plan(draft(name, blobs.measure(files), identity, record, now))
            sent = blobs.send(self.store, files, wanted.files)
        except OSError as error:
            raise from_os_error(error, f"publishing {name}, reading its files") from None
        version, created = self._register(wanted, first=max(numbers, default=0) + 1)
        if created:
            self._append(name, LogEntry(at=wanted.created, action="publish", who=who, version=version.number))
        if sent.uploaded_bytes:
            self._clear(now)
        return Published(version, created, sent.uploaded_bytes, sent.reused_bytes)

    def find(self, text: str) -> Version:
        """The version that a reference names: NAME@vN, or NAME or NAME@latest for the newest. ParamsError: there is none."""
        reference = parse_reference(text)
        return self.read(reference.name, reference.number)

    def names(self) -> list[str]:
        """Every model that has versions; none in a store that no one has published to."""
        self._check_format()
        return sorted(name for name in self.store.folders("models/") if is_name(name))

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first; ParamsError if there is no such model."""
        return self._read_all(name, self._known_numbers(name))

    def read(self, name: str, number: int | None = None) -> Version:
        """One version, the newest if no number is given; ParamsError if there is none."""
        numbers = self._known_numbers(name)
        if number is None:
            return self._read(name, numbers[-1])
        if number not in numbers:
            raise ParamsError(f"{name} has no version v{number}; it has v{numbers[0]} to v{numbers[-1]}")
        return self._read(name, number)

    def log(self, name: str) -> list[LogEntry]:
        """A model's audit log, oldest first; ParamsError if there is no such model."""
        self._known_numbers(name)
        keys = sorted(self.store.keys(f"models/{name}/log/"))
        return blobs.each(lambda key: parse(LogEntry, self._bytes(key), self.store.at(key)), keys)

    def pull(self, version: Version, part: str | None, dest: Path) -> dict[str, FileEntry]:
        """Bring a version, or one part of it without the part's own folder, to `dest`; what lies there now.

        Laws: `dest` becomes the whole selection, every byte checked, or stays as it was; pulling again where
        the same files lie already fetches nothing. ParamsError for an unknown part or a destination that is
        taken, IntegrityError for a blob that is missing or altered, ResourceError for a full disk.
        """
        files = version.select(part)
        dest = Path(os.path.abspath(dest))  # noqa: PTH100  resolve() would follow the link that is refused here
        try:
            if not destination.holds(dest, files):
                self._fetch(files, dest)
        except OSError as error:
            raise from_os_error(error, f"pulling {version.reference} to {dest}") from None
        return files

    def _fetch(self, files: Mapping[str, FileEntry], dest: Path) -> None:
        size = sum(entry.size for entry in files.values())
        destination.check(dest, size)
        meter = blobs.Meter("downloaded", size)
        with destination.arriving(dest) as partial:
            blobs.each(
                lambda item: blobs.fetch(self.store, item[0], item[1], partial / item[0], meter.add),
                files.items(),
                meter,
            )

    def _register(self, wanted: Version, first: int) -> tuple[Version, bool]:
        """Take the first free number from `first` on, unless a winner there is the same work.

        Numbers below `first` were looked at before; each one after is looked at when it is lost, so that
        no version of the same identity is overlooked and no number is skipped.
        """
        version = wanted.model_copy(update={"number": first})
        while True:
            try:
                self.store.create(_manifest(version.name, version.number), version.to_bytes())
            except ConflictError:
                winner = self._read(version.name, version.number)
                if winner.identity == wanted.identity:
                    return winner, False
                version = wanted.model_copy(update={"number": version.number + 1})
            else:
                return version, True

    def _append(self, name: str, entry: LogEntry) -> None:
        key = f"models/{name}/log/{entry.at:%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}.json"
        self.store.create(key, entry.to_bytes())

    def _clear(self, now: datetime) -> None:
        """Uploads that dead publishers left cost room; who may not clear them may publish all the same."""
        try:
            self.store.abort_uploads(blobs.FOLDER, now - STALE)
        except StorageError as error:
            events.warning(str(error))

    def _known_numbers(self, name: str) -> list[int]:
        self._check_format()
        numbers = self._numbers(check_name(name))
        if not numbers:
            known = ", ".join(self.names()) or "no models yet"
            raise ParamsError(f"there is no model {name!r} in {self.store.url}; known: {known}")
        return numbers

    def _numbers(self, name: str) -> list[int]:
        folder = f"models/{name}/versions/"
        found = (number_in(key.removeprefix(folder)) for key in self.store.keys(folder))
        return sorted(number for number in found if number is not None)

    def _read_all(self, name: str, numbers: Iterable[int]) -> list[Version]:
        return blobs.each(lambda number: self._read(name, number), numbers)

    def _read(self, name: str, number: int) -> Version:
        key = _manifest(name, number)
        version = parse(Version, self._bytes(key), self.store.at(key))
        if (version.name, version.number) != (name, number):
            raise IntegrityError(
                f"{self.store.at(key)} is the manifest of {version.reference}: restore it from a backup"
            )
        return version

    def _bytes(self, key: str) -> bytes:
        content = self.store.get(key)
        if content is None:
            raise IntegrityError(f"{self.store.at(key)} was removed meanwhile: restore it from a backup")
        return content.data

    def _check_format(self, *, begin: bool = False) -> None:
        """Refuse a registry of another format; with `begin`, start one where there is none."""
        content = self.store.get(FORMAT_KEY)
        if content is None and not begin:
            return
        found = _format(content.data if content else self._begin(), self.store.at(FORMAT_KEY))
        if found != FORMAT:
            raise StorageError(
                f"{self.store.url} is a registry of format {found} and this tuneline knows {FORMAT}: "
                "install the tuneline that wrote it, or set TUNELINE_REGISTRY to another prefix"
            )

    def _begin(self) -> bytes:
        """Start a registry, but never on a store where two publishers could both win."""
        if not self.store.probe_conditional_writes().honoured:
            raise StorageError(
                f"the store at {self.store.endpoint} ignores conditional writes, so that two publishers could "
                "overwrite each other: use one that honours If-None-Match and If-Match (tuneline doctor checks)"
            )
        data = json.dumps({"format": FORMAT}).encode() + b"\n"
        try:
            self.store.create(FORMAT_KEY, data)
        except ConflictError:
            return self._bytes(FORMAT_KEY)
        return data


def _manifest(name: str, number: int) -> str:
    return f"models/{name}/versions/v{number}.json"


def _format(data: bytes, where: str) -> int:
    try:
        return Format.model_validate_json(data).format
    except ValidationError:
        raise IntegrityError(f'{where} is damaged: it has to say {{"format": {FORMAT}}}') from None


def _plan(version: Version) -> Version:
    """The draft, unless its manifest would be larger than a reader accepts."""
    if (size := len(version.to_bytes())) > SMALL - 1024:  # its final number may have more digits
        raise DataError(
            f"the manifest of {version.name} has {size} bytes where {SMALL} are the most: shorten its record"
        )
    return version
