"""Model versions on any S3 store that honours conditional writes: no server, no database.

    registry.json                          format of everything below
    blobs/sha256/<aa>/<digest>             immutable bytes, each once
    models/<name>/versions/v<N>.json       immutable manifest, written last: the moment of registering
    models/<name>/aliases/<alias>.json     which version an alias names: the moment of promotion
    models/<name>/verdicts/v<N>-<digest>.json     what the gate said of a version
    models/<name>/signatures/v<N>-<key id>.json   what a key signed of a version
    models/<name>/pins/v<N>.json           a version that garbage collection keeps
    models/<name>/log/<time>-<id>.json     append-only audit
    leases/<id>.json, gc.json              who is about to name blobs, and who is removing some

Blobs are content-addressed, so racing or repeated uploads are harmless; only the manifest's conditional
write decides. A publisher that dies before it leaves blobs that the next one uses, and no version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tasks.core import digest, events
from tasks.core.errors import (
    ConflictError,
    DataError,
    IntegrityError,
    StorageError,
    from_os_error,
)
from tasks.core.manifest import FileEntry
from tasks.storage import blobs, conditions, destination, keys, leases, manifests
from tasks.storage.aliases import Aliases
from tasks.storage.audit import Audit, LogEntry
from tasks.storage.judgements import Judgements
from tasks.storage.keys import PublicKey
from tasks.storage.manifests import Manifests
from tasks.storage.model_version import Version, check_name, draft, parse_reference
from tasks.storage.pins import Pins
from tasks.storage.signatures import Signatures
from tasks.storage.store import SMALL, Store

DEFAULT_REGISTRY = "s3://tuneline/registry"
FORMAT = 1
FORMAT_KEY = "registry.json"


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
    """The model versions in a store. `trusted`: the keys of which one has to have signed what is pulled; None: no matter.

    Every method may raise the store's errors, and IntegrityError where what the store holds is damaged.
    """

    store: Store
    trusted: tuple[PublicKey, ...] | None = None

    @classmethod
    def open(cls, environ: Mapping[str, str]) -> Registry:
        """The registry that `TUNELINE_REGISTRY` names, with the keys of `TUNELINE_TRUSTED_KEYS`. ParamsError: no such keys."""
        return cls(Store.open(environ.get("TUNELINE_REGISTRY", DEFAULT_REGISTRY), environ), keys.trusted(environ))

    def uri(self, version: Version) -> str:
        return self.store.at(manifests.key(version.name, version.number))

    @property
    def manifests(self) -> Manifests:
        return Manifests(self.store)

    @property
    def aliases(self) -> Aliases:
        return Aliases(self.store)

    @property
    def pins(self) -> Pins:
        return Pins(self.store)

    @property
    def judgements(self) -> Judgements:
        return Judgements(self.store)

    @property
    def signatures(self) -> Signatures:
        return Signatures(self.store, self.trusted)

    def audit(self, name: str) -> Audit:
        return Audit(self.store, name)

    def publish(
        self,
        name: str,
        files: Mapping[str, Path],
        identity: str,
        record: Mapping[str, Any],
        now: datetime,
        who: str,
        verified: Mapping[str, FileEntry] | None = None,
    ) -> Published:
        """Register files as the next version of `name`, or find the version that this `identity` already is.

        verified: of files that were just read and hashed, what they were; what is sent is held against that as it goes.
        Laws: publishing an identity twice is one version, and the second time writes nothing; numbers go 1, 2, 3
        without gaps, whoever races; a version's blobs are all there before it is; killed anywhere, a publisher
        leaves a whole version or none, and the audit line is the only thing that a version may lack.
        DataError for paths or a record that can't be published, ParamsError for a bad name, IntegrityError
        for a file that changes meanwhile, ResourceError for one that can't be read.
        """
        self._check_format(begin=True)
        numbers = self.manifests.numbers(check_name(name))
        if known := self._made_by(identity, name, numbers):
            return known
        try:
            wanted = _plan(draft(name, blobs.measure(files, verified or {}), identity, record, now))
            with leases.held(self.store, name, wanted.digests, now, who):
                published = self._send(files, wanted, numbers)
        except OSError as error:
            raise from_os_error(error, f"publishing {name}, reading its files") from None
        if published.created:
            Audit(self.store, name).append(_line(published.version, who))
        if published.uploaded_bytes:
            self._clear(now)
        return published

    def _made_by(self, identity: str, name: str, numbers: list[int]) -> Published | None:
        """The version of these numbers that is the same work already."""
        for known in self.manifests.read_all(name, numbers):
            if known.identity == identity:
                return Published(known, created=False, uploaded_bytes=0, reused_bytes=known.size)
        return None

    def _send(self, files: Mapping[str, Path], wanted: Version, before: list[int]) -> Published:
        """Numbers are listed again: no collector has removed one since the lease, so none is given out twice."""
        numbers = self.manifests.numbers(wanted.name)
        if known := self._made_by(wanted.identity, wanted.name, [n for n in numbers if n not in before]):
            return known
        sent = blobs.send(self.store, files, wanted.files)
        version, created = self.manifests.register(wanted, first=max(numbers, default=0) + 1)
        return Published(version, created, sent.uploaded_bytes, sent.reused_bytes)

    def find(self, text: str) -> Version:
        """The version that a reference names: NAME@vN, NAME@ALIAS, or NAME or NAME@latest for the newest.

        ParamsError: there is none. IntegrityError: the alias names a version that is gone.
        """
        reference = parse_reference(text)
        if reference.alias is None:
            return self.read(reference.name, reference.number)
        self._check_format()
        self.manifests.known(reference.name)
        return self.aliases.version(reference.name, reference.alias)

    def names(self) -> list[str]:
        """Every model that has versions; none in a store that no one has published to."""
        self._check_format()
        return self.manifests.names()

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first; ParamsError if there is no such model."""
        self._check_format()
        return self.manifests.read_all(name, self.manifests.known(name))

    def read(self, name: str, number: int | None = None) -> Version:
        """One version, the newest if no number is given; ParamsError if there is none."""
        self._check_format()
        return self.manifests.find(name, number)

    def log(self, name: str) -> list[LogEntry]:
        """A model's audit log, oldest first; ParamsError if there is no such model."""
        self._check_format()
        self.manifests.known(name)
        self.aliases.of(name)  # completes the log
        return Audit(self.store, name).entries()

    def pull(self, version: Version, part: str | None, dest: Path) -> dict[str, FileEntry]:
        """Bring a version, or one part of it without the part's own folder, to `dest`; what lies there now.

        Laws: `dest` becomes the whole selection, every byte checked, or stays as it was; pulling again where
        the same files lie already fetches nothing. ParamsError for an unknown part or a destination that is
        taken, IntegrityError for a blob that is missing or altered or a version that no trusted key signed,
        ResourceError for a full disk.
        """
        files = version.select(part)
        self.signatures.require(version)
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

    def _clear(self, now: datetime) -> None:
        """Uploads that dead publishers left cost room; who may not clear them may publish all the same."""
        try:
            self.store.abort_uploads(blobs.FOLDER, now - leases.STALE)
        except StorageError as error:
            events.warning(str(error))

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
        conditions.require(self.store, "two publishers could overwrite each other")
        data = json.dumps({"format": FORMAT}).encode() + b"\n"
        try:
            self.store.create(FORMAT_KEY, data)
        except ConflictError:
            return self.store.whole(FORMAT_KEY)
        return data


def _line(version: Version, who: str) -> LogEntry:
    manifest = digest.of_bytes(version.to_bytes())
    return LogEntry(at=version.created, action="publish", who=who, version=version.number, manifest=manifest)


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
