"""What the gate said of a version, with all that it looked at, so that anybody can make the verdict again.

models/<name>/verdicts/v<N>-<digest>.json     immutable; aliases and the audit log name it by its digest
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.core import digest
from tasks.core.errors import ConflictError, DataError, IntegrityError, ModelError
from tasks.core.rules import PromoteParams
from tasks.core.sections import Name
from tasks.core.verdict import Ruling
from tasks.data import gate
from tasks.data.gate import Case
from tasks.data.report import rulings
from tasks.storage import blobs
from tasks.storage.model_version import Line, Number, Stored, Version, parse
from tasks.storage.store import SMALL, Store

_FILE = re.compile(r"v([1-9][0-9]*)-([0-9a-f]{64})\.json")


class Judgement(Stored):
    """Of version `version` against the one that `alias` named then; `champion` None: none yet."""

    name: Name
    version: Number
    alias: Line
    champion: Number | None
    rules: PromoteParams
    case: Case
    rulings: tuple[Ruling, ...]

    @classmethod
    def of(cls, version: Version, champion: int | None, case: Case, rules: PromoteParams) -> Judgement:
        """DataError: as `gate.judge`."""
        return cls(
            name=version.name, version=version.number, alias=rules.alias, champion=champion, rules=rules, case=case,
            rulings=gate.judge(case, rules),
        )  # fmt: skip

    @property
    def passed(self) -> bool:
        return all(ruling.passed for ruling in self.rulings)

    @property
    def broken(self) -> tuple[Ruling, ...]:
        return tuple(ruling for ruling in self.rulings if not ruling.passed)

    @property
    def opponents(self) -> str:
        """What it was compared with, in words."""
        return f"the base and v{self.champion}" if self.champion else "the base"

    @property
    def digest(self) -> str:
        return digest.of_bytes(self.to_bytes())

    def again(self) -> tuple[Ruling, ...]:
        """The rulings that this code makes of the same case and rules."""
        return gate.judge(self.case, self.rules)


def by_hand(version: Version) -> str:
    """How one gets a verdict on it."""
    return (
        f"in the folder it was published from, python -m tasks.promote --version {version.reference} --workspace . does"
    )


@dataclass(frozen=True)
class Judgements:
    """Every method may raise the store's errors, and IntegrityError for a judgement that is damaged."""

    store: Store

    def record(self, judgement: Judgement) -> str:
        """Its digest. Law: recording it twice is once. DataError: it is larger than a reader accepts."""
        data, found = judgement.to_bytes(), judgement.digest
        if len(data) > SMALL:
            raise DataError(
                f"the scores of {judgement.name} v{judgement.version} take {len(data):,} bytes, and {SMALL:,} are the most "
                "that a verdict may hold: lower prepare.splits.test"
            )
        try:
            self.store.create(self._key(judgement.name, judgement.version, found), data)
        except ConflictError:
            pass  # its name is its digest
        return found

    def of(self, version: Version) -> list[Judgement]:
        """All of a version's, by their digests."""
        folder = f"models/{version.name}/verdicts/"
        names = sorted(key.removeprefix(folder) for key in self.store.keys(f"{folder}v{version.number}-"))
        found = [match for name in names if (match := _FILE.fullmatch(name))]
        return blobs.each(lambda match: self.read(version.name, int(match[1]), match[2]), found)

    def allowing(self, version: Version, standing: int | None) -> Judgement:
        """A judgement that lets it take the place of version `standing`, or of none.

        ModelError: it was never compared with that one, or was refused.
        """
        compared = [judgement for judgement in self.of(version) if judgement.champion == standing or standing is None]
        if passing := next((judgement for judgement in compared if judgement.passed), None):
            return passing
        place = f"v{standing}, which stands there now" if standing else "any"
        said = (
            f"was refused: {rulings.first(compared[-1].broken)}" if compared
            else f"was never judged against {place}: {by_hand(version)}"
        )  # fmt: skip
        raise ModelError(f"{version.reference} {said}; --unjudged promotes it all the same, and the log says so")

    def read(self, name: str, number: int, wanted: str) -> Judgement:
        key = self._key(name, number, wanted)
        data = self.store.whole(key)
        if digest.of_bytes(data) != wanted:
            raise IntegrityError(f"{self.store.at(key)} was altered: its digest is another: restore it from a backup")
        return parse(Judgement, data, self.store.at(key))

    def _key(self, name: str, number: int, found: str) -> str:
        return f"models/{name}/verdicts/v{number}-{found}.json"
