"""Garbage collection: old versions by choice, and the blobs that no version names.

Mark: every blob of every version that stands or is about to (leases). Sweep: the manifests of retired versions, each
after its line in the audit log, then the blobs that nothing names. Killed anywhere, a collection leaves whole versions
and unnamed blobs, which the next one removes. Verdicts and signatures of retired versions stay, as the log does: they are
small, and say what was; numbers are never given out again, so they pass for no other version.

Why a publication at the same time is safe, also one that reuses an old unnamed blob, is said and argued in `leases`:
it writes a lease with its digests before it looks which blobs are there, and waits for a collector that was first. So
of these two one always knows of the other. What is read here in that order is what the argument needs: first the
leases, then manifests, aliases and pins, last the blobs.

The grace is for those who keep to no protocol (a copy made by hand, an earlier release): younger blobs stay. Ages are by
the store's clock against ours, which S3 lets differ by 15 minutes at the most. A retired number is never given out again: the
newest version of a model always stays, and a publication lists the numbers after its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.core import events
from tasks.core.errors import ParamsError, StorageError
from tasks.storage import blobs, leases, manifests
from tasks.storage.audit import Audit, LogEntry
from tasks.storage.leases import Lease
from tasks.storage.model_version import Version
from tasks.storage.objects import Item
from tasks.storage.registry import Registry

PROBES = "probe/"


@dataclass(frozen=True)
class Plan:
    """What a collection removes; `leftovers` are the scratch of commands that were killed."""

    retired: tuple[Version, ...]
    blobs: tuple[Item, ...]
    leftovers: tuple[Item, ...]

    @property
    def words(self) -> str:
        """How much, for a person."""
        return f"{len(self.retired)} versions, {len(self.blobs)} blobs, {self.size} bytes"

    @property
    def size(self) -> int:
        """Bytes of the blobs."""
        return sum(item.size for item in self.blobs)


def plan(registry: Registry, keep: int | None, grace: timedelta, now: datetime) -> Plan:
    """What would be removed now: versions beyond the newest `keep` of a model (None: no version), and unnamed blobs.

    Laws: a version that an alias or a pin names, that an alias named before or goes back to, or that is the newest stays;
    so does every blob of what stays. IntegrityError: something is damaged, so that nobody knows what it names.
    """
    if keep is not None and keep < 1:
        raise ParamsError(f"--keep {keep}: the newest version of a model always stays, so 1 is the least")
    busy = leases.standing(registry.store, now)
    read, numbers = registry.manifests.read_all, registry.manifests.numbers
    versions = {name: read(name, numbers(name)) for name in registry.names()}
    retired = [old for name in versions for old in _retired(registry, name, versions[name], keep, busy)]
    gone = {version.reference for version in retired}
    staying = (version for each in versions.values() for version in each if version.reference not in gone)
    marked = {digest for version in staying for digest in version.digests} | {d for lease in busy for d in lease.blobs}
    return Plan(
        tuple(retired),
        tuple(item for item in registry.store.items(blobs.FOLDER) if _sweepable(item, marked, now - grace)),
        tuple(item for folder in (leases.FOLDER, PROBES) for item in _older(registry, folder, now - leases.STALE)),
    )


def _retired(
    registry: Registry, name: str, versions: Sequence[Version], keep: int | None, busy: Iterable[Lease]
) -> list[Version]:
    """The versions of a model to remove, oldest first; none while somebody relies on one."""
    if keep is None or any(lease.name == name for lease in busy):
        return []
    named = {number for alias in registry.aliases.of(name) for number in alias.named} | {*registry.pins.numbers(name)}
    return [version for version in versions[:-keep] if version.number not in named]


def _sweepable(item: Item, marked: set[str], before: datetime) -> bool:
    digest = item.key.rpartition("/")[2]
    return item.key == blobs.key(digest) and digest not in marked and item.modified < before


def _older(registry: Registry, folder: str, before: datetime) -> list[Item]:
    return [item for item in registry.store.items(folder) if item.modified < before]


def collect(registry: Registry, keep: int | None, grace: timedelta, now: datetime, who: str) -> Plan:
    """Remove what `plan` says, and unfinished uploads that began a day ago or before; what was removed.

    ConflictError: another collection is under way. TransientError: this one took half an hour; run it again.
    """
    with leases.collecting(registry.store, now, who) as check:
        doomed = plan(registry, keep, grace, now)
        for version in doomed.retired:
            _retire(registry, version, keep, now, who, check)
        _sweep(registry, [*doomed.blobs, *doomed.leftovers], check)
        try:
            registry.store.abort_uploads(blobs.FOLDER, now - max(grace, leases.STALE))
        except StorageError as error:
            events.warning(str(error))
        return doomed


def _retire(
    registry: Registry, version: Version, keep: int | None, now: datetime, who: str, check: Callable[[], None]
) -> None:
    check()
    entry = LogEntry(
        at=now.astimezone(UTC), action="retire", who=who, version=version.number, why=f"gc keeps the newest {keep}"
    )
    Audit(registry.store, version.name).append(entry)
    registry.store.delete(manifests.key(version.name, version.number))


def _sweep(registry: Registry, items: Sequence[Item], check: Callable[[], None]) -> None:
    meter = blobs.Meter("removed", sum(item.size for item in items))

    def remove(item: Item) -> None:
        check()
        registry.store.delete(item.key)
        meter.add(item.size)

    blobs.each(remove, items, meter)
