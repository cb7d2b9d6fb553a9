"""The versions of the corpus in a store: who took what in, when, from where. The bytes themselves are DVC's.

    versions/v<N>.json            immutable record, written last with If-None-Match: the moment of the version
    reports/sha256/<digest>       quarantine of one version, readable lines of JSON
    dvc/                          the DVC remote: every version's shards, each once

The record names every landing file that its version consumed, so the version and the watermark are one write: either
both stand or neither. Whoever loses the race for a number reads the winner's record and finds those files consumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from tasks.core import digest
from tasks.core.errors import IntegrityError, ParamsError, StorageError
from tasks.core.manifest import FileEntry
from tasks.storage import blobs
from tasks.storage.landing import LandingFile
from tasks.storage.model_version import Line, Number, Stored, number_in, parse
from tasks.storage.registry import DEFAULT_REGISTRY
from tasks.storage.store import Store

COUNTS = ("seen", "accepted", "duplicate", "quarantined")
"""What is counted of each landing file's rows: the first is the sum of the others."""


class Arrival(BaseModel):
    """One landing file that was consumed. Law: `accepted + duplicate + quarantined == seen`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    landing: Line
    key: str
    etag: str
    size: int
    formats: dict[str, int]
    seen: int
    accepted: int
    duplicate: int
    quarantined: int
    reasons: dict[str, int]

    @property
    def mark(self) -> tuple[str, str, str, int]:
        return (self.landing, self.key, self.etag, self.size)


class Forgotten(BaseModel):
    """That rows were taken out, by which conditions, how many; never what they said."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    where: Line
    rows: int


class DataVersion(Stored):
    """Version `number` of the corpus. `data` is its manifest's digest, `pointer` the text of its `.dvc` file."""

    number: Number
    parent: Number | None
    created: AwareDatetime
    who: Line
    action: Literal["ingest", "forget"]
    data: Line
    pointer: str
    rows: Annotated[int, Field(ge=0)]
    schema_version: int = 1
    files: dict[str, FileEntry]
    arrivals: tuple[Arrival, ...] = ()
    forgotten: Forgotten | None = None
    quarantine: FileEntry | None = None
    profile: Annotated[dict[str, JsonValue], Field(description="of all its rows")]
    added: Annotated[dict[str, JsonValue] | None, Field(description="profile of the rows that it brought")] = None

    @property
    def name(self) -> str:
        return f"v{self.number}"

    def total(self, count: str) -> int:
        """The sum over its arrivals of one of COUNTS."""
        return sum(getattr(arrival, count) for arrival in self.arrivals)


@dataclass(frozen=True)
class Corpus:
    """The data versions in a store. Every method may raise the store's errors, and IntegrityError for damaged records."""

    store: Store

    @classmethod
    def open(cls, environ: Mapping[str, str]) -> Corpus:
        """The corpus beside the registry that `TUNELINE_REGISTRY` names, below `data`; its bucket is made if missing."""
        registry = environ.get("TUNELINE_REGISTRY", DEFAULT_REGISTRY)
        store = Store.open(f"{registry.rstrip('/')}/data", environ)
        store.ensure_bucket()
        return cls(store)

    @property
    def remote(self) -> str:
        """The address of the DVC remote."""
        return self.store.at("dvc")

    def versions(self) -> list[DataVersion]:
        """Every version, oldest first."""
        found = (number_in(key.removeprefix("versions/")) for key in self.store.keys("versions/"))
        return blobs.each(self._read, sorted(number for number in found if number is not None))

    def read(self, name: str) -> DataVersion:
        """The version called `v3` or `latest`; ParamsError if there is none."""
        known = self.versions()
        found = known[-1:] if name == "latest" else [version for version in known if version.name == name]
        if not found:
            there = f"there are {known[0].name} to {known[-1].name}" if known else "there is none yet"
            raise ParamsError(f"no data version {name!r} in {self.store.url}; {there}: tuneline data status")
        return found[0]

    def register(self, version: DataVersion) -> None:
        """Write the record. ConflictError: that number is taken, so everything has to be looked at again."""
        if version.number == 1 and not self.store.probe_conditional_writes().honoured:
            raise StorageError(
                f"the store at {self.store.endpoint} ignores conditional writes, so that two ingests could take the "
                "same rows in twice: use one that honours If-None-Match (tuneline doctor checks)"
            )
        self.store.create(f"versions/{version.name}.json", version.to_bytes())

    def keep_report(self, file: Path) -> FileEntry | None:
        """Store a quarantine report under its content's digest, unless it is empty. Law: twice is once."""
        if not (size := file.stat().st_size):
            return None
        entry = FileEntry(sha256=digest.of_file(file), size=size)
        self.store.upload(f"reports/sha256/{entry.sha256}", file, entry)
        return entry

    def report(self, entry: FileEntry) -> bytes:
        """A report's bytes, checked."""
        content = self.store.get(f"reports/sha256/{entry.sha256}", limit=entry.size)
        if content is None or digest.of_bytes(content.data) != entry.sha256:
            raise IntegrityError(f"{self.store.at('reports/sha256/' + entry.sha256)} is missing or was altered")
        return content.data

    def _read(self, number: int) -> DataVersion:
        key = f"versions/v{number}.json"
        content = self.store.get(key)
        if content is None:
            raise IntegrityError(f"{self.store.at(key)} was removed meanwhile: restore it from a backup")
        version = parse(DataVersion, content.data, self.store.at(key))
        if version.number != number:
            raise IntegrityError(f"{self.store.at(key)} is the record of {version.name}: restore it from a backup")
        return version


def fresh(files: Sequence[LandingFile], landing: str, versions: Sequence[DataVersion]) -> list[LandingFile]:
    """The files that no version has consumed. A file whose bytes changed under the same key is a new one."""
    consumed = {arrival.mark for version in versions for arrival in version.arrivals}
    return [file for file in files if (landing, file.key, file.etag, file.size) not in consumed]
