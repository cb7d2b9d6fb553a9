"""The manifests of a registry, one a version: their names, what they say, and taking the next number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.core.errors import ConflictError, IntegrityError, ParamsError
from tasks.storage import blobs
from tasks.storage.model_version import Version, check_name, is_name, number_in, parse
from tasks.storage.store import Store


def key(name: str, number: int) -> str:
    return f"models/{name}/versions/v{number}.json"


@dataclass(frozen=True)
class Manifests:
    """Every method may raise the store's errors, and IntegrityError for a manifest that is damaged."""

    store: Store

    def names(self) -> list[str]:
        """Every model; none in a store that no one has published to."""
        return sorted(name for name in self.store.folders("models/") if is_name(name))

    def numbers(self, name: str) -> list[int]:
        """The numbers of a model's versions, rising; none for an unknown model."""
        folder = f"models/{check_name(name)}/versions/"
        found = (number_in(key.removeprefix(folder)) for key in self.store.keys(folder))
        return sorted(number for number in found if number is not None)

    def known(self, name: str) -> list[int]:
        """As `numbers`; ParamsError for an unknown model."""
        if numbers := self.numbers(name):
            return numbers
        known = ", ".join(self.names()) or "no models yet"
        raise ParamsError(f"there is no model {name!r} in {self.store.url}; known: {known}")

    def read(self, name: str, number: int) -> Version:
        """The version of a number that was listed."""
        place = key(name, number)
        version = parse(Version, self.store.whole(place), self.store.at(place))
        if (version.name, version.number) != (name, number):
            raise IntegrityError(
                f"{self.store.at(place)} is the manifest of {version.reference}: restore it from a backup"
            )
        return version

    def read_all(self, name: str, numbers: Iterable[int]) -> list[Version]:
        return blobs.each(lambda number: self.read(name, number), numbers)

    def find(self, name: str, number: int | None) -> Version:
        """The version of a number, the newest for None; ParamsError if there is none."""
        numbers = self.known(name)
        if number is None:
            return self.read(name, numbers[-1])
        if number not in numbers:
            gone = "any more (gc removed it)" if number < numbers[-1] else ""
            there = f"it has v{numbers[0]} to v{numbers[-1]}"
            raise ParamsError(f"{name} has no version v{number} {gone}".rstrip() + f"; {there}")
        return self.read(name, number)

    def register(self, wanted: Version, first: int) -> tuple[Version, bool]:
        """Take the first free number from `first` on, unless a winner there is the same work; whether it was taken.

        Numbers below `first` were looked at before; each one after is looked at when it is lost, so that
        no version of the same identity is overlooked and no number is skipped.
        """
        version = wanted.model_copy(update={"number": first})
        while True:
            try:
                self.store.create(key(version.name, version.number), version.to_bytes())
            except ConflictError:
                winner = self.read(version.name, version.number)
                if winner.identity == wanted.identity:
                    return winner, False
                version = wanted.model_copy(update={"number": version.number + 1})
            else:
                return version, True
