"""How many rows have which length: a histogram as a plain value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Self

from pydantic import model_validator

from tasks.data.profile import EDGES
from tasks.data.report.values import Value

MOST_BINS = 40
"""As many as a chart on a phone can show."""
LONG_TAIL = 8
"""Longest row over the median from which equal bins would press all others into the first few."""


class Histogram(Value):
    """`counts[i]` rows have `edges[i] <= length < edges[i + 1]`; `log` says that the bins widen with the length."""

    edges: tuple[int, ...] = (0,)
    counts: tuple[int, ...] = ()
    log: bool = False

    @model_validator(mode="after")
    def _has_bins(self) -> Self:
        if len(self.edges) != len(self.counts) + 1 or any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("a histogram has rising edges, one more than counts")
        return self

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def at_most(self, share: float) -> int | None:
        """The length that this share of the rows does not exceed, to the width of a bin; none where there are no rows."""
        wanted = share * self.rows
        for reached, end in zip(accumulate(self.counts), self.edges[1:], strict=True):
            if reached >= wanted and reached:
                return end - 1
        return None


def of_lengths(rows: Mapping[int, int]) -> Histogram:
    """From the number of rows of each length: equal bins, or widening ones where the tail is long."""
    lengths = sorted(length for length, count in rows.items() if count)
    if not lengths:
        return Histogram()
    log = lengths[-1] > LONG_TAIL * max(1, _median(rows, lengths))
    edges = (0, *EDGES, 1 << 63) if log else _equal(lengths[0], lengths[-1])
    counts = [0] * (len(edges) - 1)
    place = 0
    for length in lengths:
        while place + 1 < len(counts) and length >= edges[place + 1]:
            place += 1
        counts[place] += rows[length]
    found = _trimmed(edges, counts, log=log)
    return _coarser(found, -(-len(found.counts) // MOST_BINS))


def of_profile(bins: Sequence[int]) -> Histogram:
    """From the bins of a `Profile`: its prompts or answers, in characters."""
    found = _trimmed((0, *EDGES, 2 * EDGES[-1]), bins, log=True)
    return _coarser(found, -(-len(found.counts) // MOST_BINS))


def _median(rows: Mapping[int, int], lengths: Sequence[int]) -> int:
    half = sum(rows.values()) / 2
    reached = accumulate(rows[length] for length in lengths)
    return next(length for length, count in zip(lengths, reached, strict=True) if count >= half)


def _equal(least: int, most: int) -> tuple[int, ...]:
    width = -(-(most - least + 1) // MOST_BINS)
    return (*range(least, most + 1, width), least + width * -(-(most - least + 1) // width))


def _coarser(found: Histogram, step: int) -> Histogram:
    """Every `step` neighbouring bins as one."""
    if step < 2:
        return found
    starts = range(0, len(found.counts), step)
    counts = tuple(sum(found.counts[start : start + step]) for start in starts)
    return Histogram(edges=(*(found.edges[start] for start in starts), found.edges[-1]), counts=counts, log=found.log)


def _trimmed(edges: Sequence[int], counts: Sequence[int], *, log: bool) -> Histogram:
    """Without the empty bins at both ends."""
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return Histogram()
    first, end = filled[0], filled[-1] + 1
    return Histogram(edges=tuple(edges[first : end + 1]), counts=tuple(counts[first:end]), log=log)
