"""Versions that garbage collection keeps whatever their age: what a paper, a customer or a later training relies on.

models/<name>/pins/v<N>.json     who keeps it, and why
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import AwareDatetime

from tasks.core.errors import ConflictError, IntegrityError, ParamsError
from tasks.core.sections import Name
from tasks.storage import leases
from tasks.storage.audit import Audit, LogEntry, Why
from tasks.storage.manifests import Manifests
from tasks.storage.model_version import Line, Number, Stored, Version, check_name, number_in, parse, stated
from tasks.storage.store import Store


class Pin(Stored):
    """Why a version has to stay."""

    name: Name
    version: Number
    who: Line
    why: Why
    at: AwareDatetime


@dataclass(frozen=True)
class Pins:
    """The pins in a store. Every method may raise the store's errors, and IntegrityError for a damaged pin."""

    store: Store

    def numbers(self, name: str) -> list[int]:
        """The numbers of a model's pinned versions."""
        folder = f"models/{check_name(name)}/pins/"
        found = (number_in(key.removeprefix(folder)) for key in self.store.keys(folder))
        return sorted(number for number in found if number is not None)

    def read(self, name: str, number: int) -> Pin:
        """The pin of a number that was listed. IntegrityError: it is damaged, or its version is gone."""
        key = _key(name, number)
        pin = parse(Pin, self.store.whole(key), self.store.at(key))
        if (pin.name, pin.version) != (name, number):
            raise IntegrityError(
                f"{self.store.at(key)} is the pin of {pin.name}@v{pin.version}: restore it from a backup"
            )
        if number not in Manifests(self.store).numbers(name):
            raise IntegrityError(
                f"{self.store.at(key)} keeps {name}@v{number}, which is gone: restore that from a backup"
            )
        return pin

    def pin(self, version: Version, *, who: str, why: str, now: datetime) -> bool:
        """Keep a version; whether it was not kept already. Law: from its return on no collector removes the version."""
        wanted = stated(Pin, name=version.name, version=version.number, who=who, why=why, at=now.astimezone(UTC))
        with leases.held(self.store, version.name, version.digests, now, who):
            Manifests(self.store).find(version.name, version.number)
            try:
                self.store.create(_key(version.name, version.number), wanted.to_bytes())
            except ConflictError:
                return False
        self._log("pin", version.name, wanted)
        return True

    def release(self, name: str, number: int, *, who: str, why: str, now: datetime) -> None:
        """Keep it no longer. ParamsError: it is not pinned."""
        if number not in self.numbers(name):
            raise ParamsError(f"{name}@v{number} is not pinned: tuneline models list {name} shows what is")
        self.store.delete(_key(name, number))
        released = stated(Pin, name=name, version=number, who=who, why=why, at=now.astimezone(UTC))
        self._log("release", name, released)

    def _log(self, action: str, name: str, pin: Pin) -> None:
        entry = LogEntry(at=pin.at, action=action, who=pin.who, version=pin.version, why=pin.why)
        Audit(self.store, name).append(entry)


def _key(name: str, number: int) -> str:
    return f"models/{name}/pins/v{number}.json"
