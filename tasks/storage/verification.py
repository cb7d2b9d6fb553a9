"""Whether a registry is whole: every manifest, signature and log line, every blob read and hashed, what aliases and pins name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tasks.core import digest
from tasks.core.errors import IntegrityError
from tasks.core.manifest import FileEntry
from tasks.storage import blobs, manifests
from tasks.storage.audit import Audit
from tasks.storage.manifests import Manifests
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.store import Store

Value = TypeVar("Value")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, in a sentence that names its object, and the versions or aliases that suffer."""

    suffer: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class Inspection:
    """What was looked at, and what was found."""

    versions: int
    blobs: int
    bytes: int
    faults: tuple[Fault, ...]


@dataclass
class _Inspector:
    """Collects faults where others would stop at the first."""

    registry: Registry
    faults: list[Fault] = field(default_factory=list[Fault])

    @property
    def store(self) -> Store:
        return self.registry.store

    def attempt(self, suffers: Sequence[str], read: Callable[[], Value]) -> Value | None:
        try:
            return read()
        except IntegrityError as error:
            self.faults.append(Fault(tuple(suffers), str(error)))
            return None

    def versions(self, name: str, numbers: Iterable[int]) -> list[Version]:
        said = self._published(name)
        found = [self.attempt([f"{name}@v{n}"], lambda n=n: self._manifest(name, n, said.get(n))) for n in numbers]
        for version in filter(None, found):
            self._signatures(version)
        return [version for version in found if version]

    def model(self, name: str) -> list[Version]:
        """Its versions, after a look at all that goes with them."""
        numbers = self.registry.manifests.numbers(name)
        for number in sorted(self._published(name).keys() - {*numbers}):
            place = self.store.at(manifests.key(name, number))
            problem = f"{place} is missing, and the log knows of no removal: restore it from a backup"
            self.faults.append(Fault((f"{name}@v{number}",), problem))
        for alias in self.registry.aliases.names(name):
            self.attempt([f"{name}@{alias}"], lambda alias=alias: self.registry.aliases.version(name, alias))
        for number in self.registry.pins.numbers(name):
            self.attempt([f"{name}@v{number}"], lambda number=number: self.registry.pins.read(name, number))
        self.attempt([name], Audit(self.store, name).entries)
        return self.versions(name, numbers)

    def _signatures(self, version: Version) -> None:
        """Each that does not fit is a fault; so is the lack of a trusted one, where there are trusted keys."""
        problems = [signature.problem for signature in self.registry.signatures.of(version)]
        self.faults += [Fault((version.reference,), problem) for problem in problems if problem]
        self.attempt([version.reference], lambda: self.registry.signatures.require(version))

    def _manifest(self, name: str, number: int, said: str | None) -> Version:
        version, place = Manifests(self.store).read(name, number), manifests.key(name, number)
        if said and digest.of_bytes(self.store.whole(place)) != said:
            raise IntegrityError(f"{self.store.at(place)} is not what was published: restore it from a backup")
        return version

    def _published(self, name: str) -> dict[int, str | None]:
        """The versions that should be there, with the digests of their manifests, as far as the log knows."""
        try:
            entries = Audit(self.store, name).entries()
        except IntegrityError:
            return {}  # a fault of its own
        removed = {entry.version for entry in entries if entry.action == "retire"}
        published = [entry for entry in entries if entry.action == "publish" and entry.version not in removed]
        return {entry.version: entry.manifest for entry in published}

    def blobs(self, versions: Sequence[Version]) -> dict[str, FileEntry]:
        """Reads every distinct blob once, several at a time."""
        named: dict[str, list[tuple[str, str]]] = {}
        entries: dict[str, FileEntry] = {}
        for version in versions:
            for path, entry in version.files.items():
                named.setdefault(entry.sha256, []).append((version.reference, path))
                entries[entry.sha256] = entry
        meter = blobs.Meter("verified", sum(entry.size for entry in entries.values()))

        def check(sha256: str) -> None:
            suffer = [reference for reference, _ in named[sha256]]
            self.attempt(suffer, lambda: _read(self.store, named[sha256][0][1], entries[sha256], meter.add))

        blobs.each(check, entries, meter)
        return entries


def verify(registry: Registry, name: str | None = None, number: int | None = None) -> Inspection:
    """Look at the whole registry, one model, or one version. ParamsError: there is no such model or version.

    Law: without faults, every version that was looked at can be pulled, by those who trust the same keys.
    """
    inspector = _Inspector(registry)
    if name and number:
        if number not in registry.manifests.numbers(name):
            registry.read(name, number)
        versions = inspector.versions(name, [number])
    else:
        if name:
            registry.manifests.known(name)
        versions = [version for each in ([name] if name else registry.names()) for version in inspector.model(each)]
    entries = inspector.blobs(versions)
    faults = sorted(inspector.faults, key=lambda fault: (fault.suffer, fault.problem))
    return Inspection(len(versions), len(entries), sum(entry.size for entry in entries.values()), tuple(faults))


def _read(store: Store, name: str, entry: FileEntry, progress: Callable[[int], None]) -> None:
    for chunk in blobs.stream(store, name, entry):
        progress(len(chunk))
