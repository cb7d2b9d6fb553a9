"""Names that move: `NAME@champion` is the version that was promoted last.

    models/<name>/aliases/<alias>.json     where it points since which move, who moved it, why, on which verdict

Moving is one conditional write of that object, the first with If-None-Match, each later one with If-Match: of all who
want to make move N exactly one does. The line in the audit log comes after it and says nothing that the object does not,
so a mover that was killed between leaves a move whose line the next reader or mover writes. Nobody makes move N + 1
before the line of move N is there, hence the log lacks one line at the most.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime

from tasks.core import events
from tasks.core.errors import ConflictError, IntegrityError, ParamsError, StorageError, TransientError
from tasks.core.sections import Name
from tasks.storage import blobs, conditions, leases
from tasks.storage.audit import Audit, Digest, Generation, LogEntry, Why
from tasks.storage.manifests import Manifests
from tasks.storage.model_version import Line, Number, Stored, Version, check_alias, check_name, parse, stated
from tasks.storage.store import Store

NOWHERE = 0
"""As `expect`: the alias names no version yet."""
LARGEST = 64 * 2**10


class Alias(Stored):
    """Where an alias points since move `generation`.

    `previous` is where it pointed before that move, `fallback` where a rollback would take it.
    """

    name: Name
    alias: Line
    version: Number
    previous: Number | None
    fallback: Number | None
    generation: Generation
    action: Literal["promote", "rollback"]
    who: Line
    why: Why
    verdict: Digest | None
    at: AwareDatetime

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.alias}"

    @property
    def named(self) -> set[int]:
        """The versions that have to stay for it."""
        return {number for number in (self.version, self.previous, self.fallback) if number}

    @property
    def entry(self) -> LogEntry:
        """Its line in the audit log."""
        return LogEntry(
            at=self.at, action=self.action, who=self.who, version=self.version, why=self.why, verdict=self.verdict,
            alias=self.alias, previous=self.previous, generation=self.generation,
        )  # fmt: skip


@dataclass(frozen=True)
class Move:
    """Where the alias points now, and whether this call moved it there."""

    alias: Alias
    made: bool

    @property
    def words(self) -> str:
        """For a person."""
        alias = self.alias
        if not self.made:
            return f"{alias.reference} names v{alias.version} already (move {alias.generation}, by {alias.who}: {alias.why})"
        before = f", v{alias.previous} before" if alias.previous else ""
        return f"{alias.reference} names v{alias.version} now{before} (move {alias.generation})"


@dataclass(frozen=True)
class _Found:
    alias: Alias
    etag: str


@dataclass(frozen=True)
class Aliases:
    """The aliases in a store. Every method may raise the store's errors, and IntegrityError for a damaged alias."""

    store: Store

    def names(self, name: str) -> list[str]:
        """The aliases of a model."""
        folder = f"models/{check_name(name)}/aliases/"
        keys = [key.removeprefix(folder) for key in self.store.keys(folder)]
        return sorted(key.removesuffix(".json") for key in keys if key.endswith(".json") and "/" not in key)

    def of(self, name: str) -> list[Alias]:
        """Every alias of a model, by name."""
        return [found for alias in self.names(name) if (found := self.read(name, alias))]

    def read(self, name: str, alias: str) -> Alias | None:
        """Where it points, None if nowhere. Completes the log, if that may be written."""
        found = self._find(name, alias)
        if found is None:
            return None
        try:
            self._complete(found.alias)
        except (StorageError, TransientError) as error:
            events.warning(f"the audit log lacks move {found.alias.generation} of {found.alias.reference}: {error}")
        return found.alias

    def version(self, name: str, alias: str) -> Version:
        """The version it names. ParamsError: there is no such alias. IntegrityError: that version is gone."""
        found = self.read(name, alias)
        if found is None:
            known = ", ".join(f"{name}@{other.alias}" for other in self.of(name)) or "no aliases yet"
            raise ParamsError(f"{name} has no alias {alias!r}; it has {known}")
        if found.version not in Manifests(self.store).numbers(name):
            raise IntegrityError(
                f"{found.reference} names v{found.version}, which is gone: promote another version "
                f"(tuneline models list {name})"
            )
        return Manifests(self.store).read(name, found.version)

    def promote(
        self,
        version: Version,
        alias: str,
        *,
        who: str,
        why: str,
        now: datetime,
        expect: int | None = None,
        verdict: str | None = None,
    ) -> Move:
        """Make an alias name a version.

        `expect` is the version that it must still name, NOWHERE for none: what the decision was compared with.
        `verdict` is the digest of what allowed it.
        Laws: one write decides; an alias never names a version that lacks a file; promoting where it points already
        moves nothing. ConflictError: it moved meanwhile. StorageError: the store ignores conditional writes.
        """
        with self._reliably(version, now, who):
            found = self._find(version.name, check_alias(alias))
            if found and found.alias.version == version.number:
                self._complete(found.alias)
                return Move(found.alias, made=False)
            if expect is not None and expect != (found.alias.version if found else NOWHERE):
                raise self._moved(version.name, alias, expect)
            before = self._before(version.name, alias, found)
            wanted = stated(
                Alias, name=version.name, alias=alias, version=version.number, previous=before and before.version,
                fallback=before and before.version, generation=1 + (before.generation or 0 if before else 0),
                action="promote", who=who, why=why, verdict=verdict, at=now.astimezone(UTC),
            )  # fmt: skip
            return self._move(wanted, found)

    def rollback(self, name: str, alias: str, *, who: str, why: str, now: datetime) -> Move:
        """Take an alias back to the version that it was promoted from; a second time, one further back.

        ParamsError: there is none. IntegrityError: that version or one of its blobs is gone. Else as `promote`.
        """
        found = self._find(check_name(name), check_alias(alias))
        if found is None or found.alias.fallback is None:
            at = f"names v{found.alias.version} and nothing was promoted before" if found else "names no version"
            raise ParamsError(f"{name}@{alias} {at}: promote the version that it should name")
        with self._reliably(self._standing(found.alias), now, who):
            wanted = stated(
                Alias, name=name, alias=alias, version=found.alias.fallback, previous=found.alias.version,
                fallback=self._beneath(found.alias), generation=found.alias.generation + 1,
                action="rollback", who=who, why=why, verdict=None, at=now.astimezone(UTC),
            )  # fmt: skip
            return self._move(wanted, found)

    @contextmanager
    def _reliably(self, version: Version, now: datetime, who: str) -> Generator[None]:
        """Within the block the version is there, whole, and nobody removes it."""
        conditions.require(self.store, "two promotions could overwrite each other")
        with leases.held(self.store, version.name, version.digests, now, who):
            Manifests(self.store).find(version.name, version.number)
            blobs.check(self.store, version.files)
            yield

    def _standing(self, alias: Alias) -> Version:
        number = alias.fallback or 0
        if number not in Manifests(self.store).numbers(alias.name):
            raise IntegrityError(
                f"{alias.reference} can't go back to v{number}, which is gone: promote another version"
            )
        return Manifests(self.store).read(alias.name, number)

    def _beneath(self, alias: Alias) -> int | None:
        """Where a rollback would go after the next one; None where the log no longer tells."""
        self._complete(alias)
        moves = [entry for entry in Audit(self.store, alias.name).entries() if entry.alias == alias.alias]
        stack = promoted(moves)
        return stack[-3] if len(stack) > 2 and stack[-2:] == [alias.fallback, alias.version] else None

    def _before(self, name: str, alias: str, found: _Found | None) -> LogEntry | None:
        """The move that the next one follows. An alias whose file was removed goes on where the log ends."""
        if found is None:
            return Audit(self.store, name).last_move(alias)
        self._complete(found.alias)
        return found.alias.entry

    def _move(self, wanted: Alias, found: _Found | None) -> Move:
        key, data = _key(wanted.name, wanted.alias), wanted.to_bytes()
        try:
            if found:
                self.store.replace(key, data, found.etag)
            else:
                self.store.create(key, data)
        except ConflictError:
            raise self._moved(wanted.name, wanted.alias, wanted.previous or NOWHERE) from None
        try:
            Audit(self.store, wanted.name).append(wanted.entry)
        except (StorageError, TransientError) as error:
            raise type(error)(
                f"{wanted.reference} names v{wanted.version} now, but the audit log lacks its line, which the next "
                f"command on this alias writes: {error}"
            ) from None
        return Move(wanted, made=True)

    def _moved(self, name: str, alias: str, expected: int) -> ConflictError:
        found = self._find(name, alias)
        now = (
            f"now at v{found.alias.version} (move {found.alias.generation}, by {found.alias.who}: {found.alias.why})"
            if found
            else "it names no version now"
        )
        was = f"v{expected}" if expected else "no version"
        return ConflictError(f"{name}@{alias} no longer names {was}, {now}: compare with that, then decide again")

    def _complete(self, alias: Alias) -> None:
        """Write the line that a killed mover left out."""
        audit = Audit(self.store, alias.name)
        if not audit.has(alias.entry):
            audit.append(alias.entry)

    def _find(self, name: str, alias: str) -> _Found | None:
        key = _key(name, alias)
        try:
            content = self.store.get(key, LARGEST)
            found = content and _Found(parse(Alias, content.data, self.store.at(key)), content.etag)
        except IntegrityError as error:
            raise IntegrityError(_damaged(str(error), name)) from None
        if found and (found.alias.name, found.alias.alias) != (name, alias):
            what = f"{self.store.at(key)} is the alias {found.alias.reference}: restore it from a backup"
            raise IntegrityError(_damaged(what, name))
        return found


def _damaged(what: str, name: str) -> str:
    return (
        f"{what}, or delete that object and promote what it should name (tuneline models log {name} says what it was)"
    )


def _key(name: str, alias: str) -> str:
    return f"models/{name}/aliases/{alias}.json"


def promoted(moves: list[LogEntry]) -> list[int]:
    """The versions on which an alias stands: a promotion puts one on top, a rollback takes it off again."""
    stack: list[int] = []
    for move in moves:
        if move.action == "rollback":
            del stack[-1:]
        else:
            stack.append(move.version)
    return stack
