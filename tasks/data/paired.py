"""Two models on the same rows, or one alone: the mean, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000
SEED = 20_120_101
BLOCK = 1 << 22
"""Drawn values at a time."""
DIGITS = 12
"""Sums in another order differ beyond them."""


def difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of `second - first` row by row, and its interval by the paired bootstrap (Efron 1979; Koehn 2004).

    The same rows give the same interval. Law: without a difference in any row all three are 0.
    """
    return interval(np.asarray(second, np.float64) - np.asarray(first, np.float64), confidence=confidence)


def interval(
    values: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean and its interval by the bootstrap. Law: equal values have an interval without width."""
    rows = np.asarray(values, np.float64)
    means = np.concatenate([weights @ rows for weights in _resampled(len(rows), resamples)]) / len(rows)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return round(float(rows.mean()), DIGITS), round(float(low), DIGITS), round(float(high), DIGITS)


def _resampled(rows: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each row was drawn, shape (resamples, rows), some resamples at a time; all of them, if they are few, once
    for all that is compared."""
    if rows * resamples <= BLOCK:
        yield _all(rows, resamples)
        return
    yield from _drawn(rows, resamples)


@lru_cache(maxsize=8)
def _all(rows: int, resamples: int) -> np.ndarray:
    return np.concatenate(list(_drawn(rows, resamples)))


def _drawn(rows: int, resamples: int) -> Iterator[np.ndarray]:
    draw, at_once = np.random.default_rng(SEED), max(1, BLOCK // rows)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        places = draw.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(places.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of McNemar's exact test (McNemar 1947): of rows that one alone answered right, each was as likely to.

    Values are 0 or 1. Law: 1 where both are right equally often.
    """
    won = sum(after > before for before, after in zip(first, second, strict=True))
    lost = sum(after < before for before, after in zip(first, second, strict=True))
    rows = won + lost
    return min(1.0, 2 * sum(math.comb(rows, k) for k in range(min(won, lost) + 1)) / 2**rows)
