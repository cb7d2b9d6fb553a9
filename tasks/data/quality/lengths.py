"""Rows far longer or shorter than the others (Tukey 1977, Exploratory Data Analysis, 2D: "far out")."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.sections import Lengths
from tasks.data.quality.finding import Finding


class Fences(NamedTuple):
    """The smallest and largest ordinary length, in tokens."""

    low: float
    high: float


def histogram(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How many rows have length 0, 1, 2, ... tokens."""
    return np.bincount(np.asarray(lengths, np.int64)).astype(np.int64)


def fences(histogram: npt.NDArray[np.int64], quartiles: float) -> Fences:
    """`quartiles` interquartile ranges beyond the quartiles; without rows nothing is outside.

    The range counts as one token at the least: where most rows have one length, its neighbours are no outliers.
    """
    rows = int(histogram.sum())
    if not rows:
        return Fences(-math.inf, math.inf)
    below = np.cumsum(histogram)
    first, third = (int(np.searchsorted(below, math.ceil(rows * share))) for share in (0.25, 0.75))
    reach = quartiles * max(third - first, 1)
    return Fences(first - reach, third + reach)


def examine(tokens: int, fences: Fences, params: Lengths) -> list[Finding]:
    """A finding for a row of so many tokens that stands outside the fences."""
    if params.action == "ignore" or fences.low <= tokens <= fences.high:
        return []
    low, high = max(fences.low, 0), fences.high
    return [Finding("lengths", params.action, f"{tokens} tokens; ordinary are {low:.0f} to {high:.0f}")]
