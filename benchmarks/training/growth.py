"""How the cost grows: tokens a second and memory against the length of the rows, the rank, and the size of the corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Contender, Failure, Findings, Options, number, table
from benchmarks.measuring import lessons
from benchmarks.peers import lesson as lesson_file
from benchmarks.peers.lesson import Lesson
from benchmarks.training import course, plots

STEPS = 3
"""The first is left out of the rate: it also pays for what is done once."""
PACK_TOKENS = 256
"""Of a pack of the growing corpus: small, since reading is what is measured."""


@dataclass(frozen=True)
class Size:
    """`tokens` of a step, in rows of `length` where that is not what grows."""

    lengths: Sequence[int]
    ranks: Sequence[int]
    packs: Sequence[int]
    tokens: int
    length: int


WHOLE = Size((64, 256, 512, 1024, 2048), (4, 16, 64, 192), (100, 10_000, 100_000), 1024, 256)
QUICK = Size((64, 512), (4, 64), (100, 1_000), 512, 128)


@dataclass(frozen=True)
class Growth:
    """One thing that grows. `points`: tokens a second and peak megabytes at each of its values."""

    name: str
    unit: str
    points: Mapping[int, tuple[float, float]]
    failures: Mapping[str, str]


@dataclass(frozen=True)
class _Place:
    """Where the contenders find their lesson and write."""

    folder: Path
    base: Path
    size: Size

    def lesson(self, tokens: int, length: int, rank: int = lessons.RANK) -> Lesson:
        return lessons.of_length(self.base, self.folder / "grown", tokens, length, STEPS, rank)

    def contender(self, lesson: Lesson, setting: Mapping[str, Any], script: str = "tuneline_train.py") -> Contender:
        file = self.folder / "grown.json"
        lesson_file.write(file, lesson)
        return course.ours("growing", file, self.folder / "out", setting, script)


def measured(options: Options, folder: Path, base: Path) -> Findings:
    size = QUICK if options.quick else WHOLE
    place = _Place(folder, base, size)
    grown = [
        _grown("row length", "tokens", size.lengths, lambda length: _long(place, length)),
        _grown("rank", "", size.ranks, lambda rank: place.contender(place.lesson(size.tokens, size.length, rank), {})),
        _grown("corpus", "packs", size.packs, lambda packs: _large(place, packs)),
    ]
    if (into := options.flags["plots"]) is not None:
        for growth in grown:
            plots.draw(into / f"train-{growth.name.replace(' ', '-')}.png", growth.name, growth.unit, growth.points)
    absolute = {
        f"{growth.name} {value}": {"tokens_per_second": rate, "peak_megabytes": peak}
        for growth in grown
        for value, (rate, peak) in growth.points.items()
    }
    failures = {name: reason for growth in grown for name, reason in growth.failures.items()}
    return Findings({}, absolute, [_table(growth) for growth in grown], failures)


def _long(place: _Place, length: int) -> Contender:
    """A row is never divided, so a long one is one forward pass whatever the params say."""
    return place.contender(place.lesson(max(place.size.tokens, length), length), {})


def _large(place: _Place, packs: int) -> Contender:
    return place.contender(place.lesson(PACK_TOKENS, PACK_TOKENS), {"packs": packs}, "tuneline_packs.py")


def _grown(name: str, unit: str, values: Sequence[int], contender: Callable[[int], Contender]) -> Growth:
    points, failures = dict[int, tuple[float, float]](), dict[str, str]()
    for value in values:
        outcome = harness.measure(contender(value))
        if isinstance(outcome, Failure):
            failures[f"{name} {value}"] = outcome.reason
            continue
        points[value] = course.rate([outcome], "seconds", first=1).median, outcome.result["peak_rss_bytes"] / 1e6
        harness.say(f"{name} {value:,}: {number(points[value][0])} tokens/s")
    return Growth(name, unit, points, failures)


def _table(growth: Growth) -> str:
    rows = [[f"{value:,}", number(rate), number(peak)] for value, (rate, peak) in growth.points.items()]
    return table(f"Growing {growth.name}", [f"{growth.name} {growth.unit}".strip(), "tokens/s", "peak MB"], rows)
