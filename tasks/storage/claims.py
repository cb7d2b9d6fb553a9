"""Which data versions a model was trained on, or is being trained on now: each once, whoever is asked to at the same moment.

data/trained/<model>/v<N>.json     the run that took data version N, written with If-None-Match before it trains
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime

from tasks.core.errors import ConflictError
from tasks.core.sections import Name
from tasks.data.drift import drift
from tasks.data.profile import Profile
from tasks.data.readiness import News
from tasks.storage import blobs, continuing
from tasks.storage.corpus import Corpus, DataVersion
from tasks.storage.model_version import Line, Number, Stored, number_in, parse
from tasks.storage.registry import Registry


class Claim(Stored):
    """Run `run` trains `model` on data version `data`."""

    model: Name
    data: Number
    run: Line
    at: AwareDatetime


@dataclass(frozen=True)
class Claims:
    """Of one model. Every method may raise the store's errors, and IntegrityError for a damaged claim."""

    corpus: Corpus
    model: str

    def take(self, number: int, run: str, now: datetime) -> Claim:
        """The claim that stands: this run's, or the one of who came first. Law: of all who ask one gets it, and a run
        that comes back after a crash has it still."""
        wanted = Claim(model=self.model, data=number, run=run, at=now)
        try:
            self.corpus.store.create(self._key(number), wanted.to_bytes())
        except ConflictError:
            return self._read(number)
        return wanted

    def all(self) -> list[Claim]:
        """Every claim, by data version."""
        folder = f"trained/{self.model}/"
        numbers = [number_in(key.removeprefix(folder)) for key in self.corpus.store.keys(folder)]
        return blobs.each(self._read, sorted(number for number in numbers if number))

    def held(self, run: str) -> int | None:
        """The newest data version that the run has taken."""
        return max((claim.data for claim in self.all() if claim.run == run), default=None)

    def newest(self, registry: Registry) -> int:
        """The number of the newest data version that was taken, or that a registered version was trained on by hand; 0 for
        none."""
        versions = registry.versions(self.model) if self.model in registry.names() else []
        learned = [continuing.learned(version) for version in versions if continuing.knows(version)]
        return max([*(claim.data for claim in self.all()), *learned], default=0)

    def news(self, registry: Registry) -> News | None:
        """What has arrived since then; None for nothing."""
        versions, newest = self.corpus.versions(), self.newest(registry)
        fresh = [version for version in versions if version.number > newest and version.action == "ingest"]
        if not fresh:
            return None
        return News(
            version=versions[-1].name, rows=sum(version.total("accepted") for version in fresh), first=fresh[0].created,
            last=fresh[-1].created, drift=_drift(versions, fresh, newest),
        )  # fmt: skip

    def _read(self, number: int) -> Claim:
        key = self._key(number)
        return parse(Claim, self.corpus.store.whole(key), self.corpus.store.at(key))

    def _key(self, number: int) -> str:
        return f"trained/{self.model}/v{number}.json"


def _drift(versions: list[DataVersion], fresh: list[DataVersion], newest: int) -> float | None:
    """Of the new rows from those that were trained on."""
    reference = next((version for version in versions if version.number == newest), None)
    if reference is None:
        return None
    new = Profile()
    for version in fresh:
        new = new.merge(Profile.model_validate(version.added))
    return drift(new, Profile.model_validate(reference.profile)).overall
