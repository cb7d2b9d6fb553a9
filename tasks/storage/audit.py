"""A model's audit log: who did what to which version, why, and which verdict allowed it. Append-only.

    models/<name>/log/<time>-<id>.json            a publication, a pin, a removal
    models/<name>/log/<time>-<alias>-g<N>.json    move N of an alias: the move alone determines the key

A move's line has one key whoever writes it, so that whoever finds it missing may write it: twice is once.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from tasks.core.errors import ConflictError
from tasks.storage import blobs
from tasks.storage.model_version import Line, Number, Stored, parse
from tasks.storage.store import Store

Why = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Generation = Annotated[int, Field(ge=1)]


class LogEntry(Stored):
    """One line: who did what to which version, and when.

    `manifest` is the digest of what was published; `alias`, `previous` and `generation` are those of a move; `run` is the
    flow run that awaits an answer.
    """

    at: AwareDatetime
    action: Line
    who: Line
    version: Number
    why: Why | None = None
    verdict: Digest | None = None
    manifest: Digest | None = None
    alias: Line | None = None
    previous: Number | None = None
    generation: Generation | None = None
    run: Line | None = None


@dataclass(frozen=True)
class Audit:
    """The log of one model. Every method may raise the store's errors."""

    store: Store
    name: str

    def append(self, entry: LogEntry) -> None:
        """Law: a move's line is there once, however often it is appended."""
        try:
            self.store.create(self._key(entry), entry.to_bytes())
        except ConflictError:
            pass  # the same move: whoever wrote it first read the same alias

    def has(self, entry: LogEntry) -> bool:
        """Whether a move's line is there."""
        return self.store.head(self._key(entry)) is not None

    def entries(self) -> list[LogEntry]:
        """Every line, oldest first; IntegrityError for one that is damaged."""
        return in_order(blobs.each(self._read, sorted(self.store.keys(self._folder))))

    def last_move(self, alias: str) -> LogEntry | None:
        """The newest move of an alias that the log knows: all that is left of an alias whose file was removed."""
        found = [(int(match[1]), key) for key in self.store.keys(self._folder) if (match := _moves(alias).search(key))]
        return self._read(max(found)[1]) if found else None

    def withdrawal(self, alias: str, version: int) -> LogEntry | None:
        """The rollback that took the alias from the version, unless it came back to it later."""
        moves = [entry for entry in self.entries() if entry.alias == alias]
        about = [
            move for move in moves if move.version == version or (move.action, move.previous) == ("rollback", version)
        ]
        return about[-1] if about and about[-1].version != version else None

    def declined(self, verdict: str) -> LogEntry | None:
        """A person's no to what the verdict let pass."""
        return next((e for e in self.entries() if (e.action, e.verdict) == ("decline", verdict)), None)

    def _read(self, key: str) -> LogEntry:
        return parse(LogEntry, self.store.whole(key), self.store.at(key))

    @property
    def _folder(self) -> str:
        return f"models/{self.name}/log/"

    def _key(self, entry: LogEntry) -> str:
        name = f"{entry.alias}-g{entry.generation}" if entry.generation else uuid.uuid4().hex[:8]
        return f"{self._folder}{entry.at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{name}.json"


def _moves(alias: str) -> re.Pattern[str]:
    return re.compile(rf"/[0-9T.]+Z-{re.escape(alias)}-g([1-9][0-9]*)\.json$")


def in_order(entries: list[LogEntry]) -> list[LogEntry]:
    """By time, but the moves of an alias by their generation: clocks differ, and a generation has one successor."""
    moves = {
        alias: iter(sorted((e for e in entries if e.alias == alias), key=lambda e: e.generation or 0))
        for alias in {entry.alias for entry in entries if entry.alias}
    }
    return [next(moves[entry.alias]) if entry.alias else entry for entry in entries]
