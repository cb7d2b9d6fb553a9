"""What runs have in common: the order they take turns in, medians and spread, ratios. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.measuring.child import Run

Runs = Mapping[str, Sequence[Run]]
"""The runs of each contender, in the order of the rounds: entries at one place ran side by side."""

MEASURES = ("wall_seconds", "cpu_seconds", "peak_rss_bytes", "tree_rss_bytes")


@dataclass(frozen=True)
class Figure:
    """A measure over some rounds. Law: low <= median <= high."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(median(values), min(values), max(values))

    def over(self, divisor: float) -> Figure:
        return Figure(self.median / divisor, self.low / divisor, self.high / divisor)

    def as_json(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


def order(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Who runs when: A B C, then C B A, then A B C, ...

    Laws: everybody runs once a round; over an even number of rounds the turns of each have the same sum,
    so that a machine that grows slower steadily slows all alike.
    """
    return [list(names if number % 2 == 0 else reversed(names)) for number in range(rounds)]


def values(runs: Sequence[Run], measure: str) -> list[float]:
    return [float(getattr(run, measure)) for run in runs]


def ratios(runs: Runs, baseline: str, measure: str) -> dict[str, Figure]:
    """Each contender's measure over the baseline's, round by round.

    Laws: the baseline's is 1; k times the measure is k times the ratio.
    """
    below = values(runs[baseline], measure)
    return {
        name: Figure.of([above / one for above, one in zip(values(series, measure), below, strict=True)])
        for name, series in runs.items()
    }


def differences(runs: Runs, baseline: str, measure: str) -> dict[str, Figure]:
    """Each contender's measure less the baseline's, round by round. Law: the baseline's is 0."""
    below = values(runs[baseline], measure)
    return {
        name: Figure.of([above - one for above, one in zip(values(series, measure), below, strict=True)])
        for name, series in runs.items()
    }


def absolute(runs: Sequence[Run]) -> dict[str, Any]:
    """Every measure of one contender, for the JSON file."""
    return {measure: Figure.of(values(runs, measure)).as_json() for measure in MEASURES} | {"rounds": len(runs)}
