"""How far new rows are from a reference: distances between two profiles, each beside what chance alone would make.

A distance is Jensen-Shannon's (Lin 1991) in bits, as a square root, which makes it a metric (Endres & Schindelin 2003):
0 for equal shapes, 1 for nothing in common, whichever comes first and however many rows there are.

Two samples of the same rows differ as well, and the fewer the rows, the more. That noise is what a permutation test
would find: the rows of both sets dealt out anew. A bucket that `d` of all rows have then gets a hypergeometric number
of them, which the profiles know without the rows, because they count rows and not words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from tasks.data.census import Census
from tasks.data.profile import EDGES, Profile

DECIDING = ("prompt length", "answer length", "vocabulary", "tags")
"""Not the sources: a new one is often the point of an arrival."""
MEASURES = (*DECIDING, "sources")
CONFIDENCE = 0.99
"""Share of samples without drift whose distance stays within the noise, where every row is in one bucket (lengths,
sources, single tags). Words come in company, and so do several tags of a row, so more of those go beyond it: 2 to 5 of
100 on short texts, 17 on long conversations of one kind, but by little: of 750 pairs none by more than 0.15, which is
therefore the least limit to set."""
_LENGTHS = (0, *sorted({EDGES.index(round(2 ** (half / 2))) + 1 for half in range(49)}))
"""Bins of lengths that count as one: half octaves. In finer ones texts a tenth shorter would already be strangers."""
_DRAWS = 400_000
"""Random numbers a measure; each deal of the rows takes one a bucket."""
_SEED = 2003
_MOST = 10**9 - 1
"""Rows that numpy's hypergeometric distribution takes; larger references are scaled down to it."""

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]


class Measure(BaseModel):
    """One distance; `noise` is what two samples of the same rows seldom exceed (see `CONFIDENCE`). Both in 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    distance: float
    noise: float

    @property
    def beyond_noise(self) -> float:
        """The distance less its noise, subtracted as squares: divergences add up, their roots don't."""
        return max(0.0, self.distance**2 - self.noise**2) ** 0.5


class Drift(BaseModel):
    """New rows against a reference, by what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    new_rows: int
    reference_rows: int
    measure: dict[str, Measure]

    @field_validator("measure")
    @classmethod
    def _in_order(cls, measure: dict[str, Measure]) -> dict[str, Measure]:
        if measure.keys() != set(MEASURES):
            raise ValueError(f"expected the measures {', '.join(MEASURES)}, found {', '.join(measure)}")
        return {name: measure[name] for name in MEASURES}

    @property
    def overall(self) -> float:
        """The largest of length, vocabulary and tags, beyond noise; 0 to 1."""
        return max(self.measure[name].beyond_noise for name in DECIDING)

    def exceeds(self, limit: float) -> bool:
        """Whether the drift is larger than `limit`, its noise already taken off."""
        return self.overall > limit

    def as_text(self) -> str:
        """An aligned table for a terminal."""
        lines = [f"{self.new_rows:,} new rows against {self.reference_rows:,}", _line("", "distance", "noise", "drift")]
        for name, each in self.measure.items():
            lines.append(_line(name, *(f"{value:.3f}" for value in (each.distance, each.noise, each.beyond_noise))))
        return "\n".join([*lines, _line("overall", "", "", f"{self.overall:.3f}")])


def _line(name: str, *cells: str) -> str:
    return f"{name:<14}" + "".join(f"{cell:>10}" for cell in cells)


def drift(new: Profile, reference: Profile) -> Drift:
    """Pure and deterministic. Laws: equal shapes have no distance; swapping the two changes nothing but their names.

    Where either profile has no rows there is nothing to compare: no distance, and nothing but noise.
    """
    tags, sources = _alike(new.tags, reference.tags), _alike(new.sources, reference.sources)
    pairs: dict[str, tuple[Sequence[int], Sequence[int]]] = {
        "prompt length": (_lengths(new.prompts), _lengths(reference.prompts)),
        "answer length": (_lengths(new.answers), _lengths(reference.answers)),
        "vocabulary": ((*new.words, new.wordless), (*reference.words, reference.wordless)),
        "tags": ((*tags[0], new.untagged), (*tags[1], reference.untagged)),
        "sources": sources,
    }
    measure = {name: _measure(*pair, new.rows, reference.rows) for name, pair in pairs.items()}
    return Drift(new_rows=new.rows, reference_rows=reference.rows, measure=measure)


def _lengths(counts: Sequence[int]) -> list[int]:
    return [sum(counts[start:end]) for start, end in pairwise((*_LENGTHS, None))]


def _alike(new: Census, reference: Census) -> tuple[list[int], list[int]]:
    """Counts of both over the same names."""
    union = new.merge(reference)
    left, right = (each.within(union) for each in (new, reference))
    return [*left.counts.values(), left.other], [*right.counts.values(), right.other]


def _measure(new: Sequence[int], reference: Sequence[int], new_rows: int, reference_rows: int) -> Measure:
    if not new_rows or not reference_rows:
        return Measure(distance=0.0, noise=1.0)
    left, right = np.array(new, np.int64), np.array(reference, np.int64)
    pooled = left + right
    noise = _noise(pooled[pooled > 0], new_rows, reference_rows)
    return Measure(distance=round(float(_distances(left, right)), 6), noise=round(noise, 6))


def _noise(pooled: Counts, *rows: int) -> float:
    """The quantile of the distances after dealing out the pooled rows at random; symmetric in the two sets."""
    total, fewer = sum(rows), min(rows)
    scale = min(1.0, _MOST / total)
    total, fewer = int(total * scale), max(1, min(fewer, int(total * scale) // 2))
    having = np.minimum((pooled * scale).astype(np.int64), total)
    dealt = _dealt(having, total, fewer)
    return float(np.quantile(_distances(dealt, having - dealt), CONFIDENCE))


def _dealt(having: Counts, total: int, fewer: int) -> Counts:
    """How many of the rows that each bucket has are among `fewer` drawn of `total`; a line a deal.

    Exact where every row is in one bucket. Where rows are in several, each bucket is right by itself, and that they
    come together is left out: the mean stays right, the spread comes out too small.
    """
    random, deals = np.random.default_rng(_SEED), min(2000, max(200, _DRAWS // len(having)))
    if having.sum() == total:
        return random.multivariate_hypergeometric(having, fewer, deals, method="marginals")
    return random.hypergeometric(having, total - having, fewer, (deals, len(having)))


def _distances(left: ArrayLike, right: ArrayLike) -> Shares:
    """Jensen-Shannon distances between the counts along the last axis; 0 where one side has none."""
    p, q = _shares(left), _shares(right)
    middle = (p + q) / 2
    divergence = (_bits(p, middle) + _bits(q, middle)) / 2
    return np.sqrt(np.clip(divergence, 0.0, 1.0))


def _shares(counts: ArrayLike) -> Shares:
    values = np.asarray(counts, np.float64)
    return values / np.maximum(values.sum(-1, keepdims=True), 1.0)


def _bits(shares: Shares, middle: Shares) -> Shares:
    """Kullback-Leibler divergence of the shares from their middle, in bits; nothing times anything is nothing."""
    ratios = np.divide(shares, middle, out=np.ones_like(shares), where=shares > 0)
    return (shares * np.log2(ratios)).sum(-1)
