"""How often each name occurs, in bounded space and still exactly mergeable.

Kept are the names whose digests are the smallest: a coordinated bottom-k sample of the names (Cohen & Kaplan 2007).
A name among the smallest of a union is among the smallest of every part that has it, so its count is exact in each,
whatever was added in which order. The most frequent names would be the nicer choice, but no bounded count of those
merges exactly.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CAP = 1000
"""Distinct names up to which every count is kept."""
LONGEST = 120
"""Characters of a name; longer ones are cut, so that a profile stays small."""

Count = Annotated[int, Field(ge=0)]


class Census(BaseModel):
    """Occurrences by name, and those of all other names together.

    Law: `other` is 0 up to 1,000 distinct names. Beyond, the counts of the 1,000 kept ones are exact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    counts: Annotated[dict[str, Count], Field(max_length=CAP)] = {}
    other: Count = 0

    @property
    def total(self) -> int:
        return sum(self.counts.values()) + self.other

    def merge(self, other: Census) -> Census:
        counts = Counter(self.counts)
        counts.update(other.counts)
        return _census(counts, self.other + other.other)

    def without(self, part: Census) -> Census:
        """What remains when a part is taken out. Law: `a.merge(b).without(b) == a`, where the whole has no others."""
        counts = Counter(self.counts)
        counts.subtract(part.counts)
        return Census(counts={name: count for name, count in sorted(counts.items()) if count})

    def within(self, union: Census) -> Census:
        """Over the names that a census of a larger set keeps, so that two of its parts can be compared."""
        counts = {name: self.counts.get(name, 0) for name in union.counts}
        return Census(counts=counts, other=self.total - sum(counts.values()))


class Tally:
    """Counts names one by one."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._other = 0

    def add(self, name: str) -> None:
        name = name[:LONGEST]
        self._counts[name] = self._counts.get(name, 0) + 1
        if len(self._counts) > 2 * CAP:  # seldom: choosing the smallest takes a millisecond or two
            census = self.census()
            self._counts, self._other = dict(census.counts), census.other

    def census(self) -> Census:
        return _census(self._counts, self._other)


def _census(counts: Mapping[str, int], other: int) -> Census:
    kept = sorted(sorted(counts, key=_rank)[:CAP]) if len(counts) > CAP else sorted(counts)
    chosen = {name: counts[name] for name in kept}
    return Census(counts=chosen, other=other + sum(counts.values()) - sum(chosen.values()))


def _rank(name: str) -> tuple[bytes, str]:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), name
