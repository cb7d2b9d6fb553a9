"""Contenders against each other, in turn: A B C, C B A, ..."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measuring import figures
from benchmarks.measuring.child import Contender, Failure, Run, measure
from benchmarks.measuring.table import number


@dataclass(frozen=True)
class Comparison:
    """`runs` holds every contender that came through all rounds, `failures` why the others did not."""

    baseline: str
    runs: figures.Runs
    failures: Mapping[str, str]


def compare(contenders: Sequence[Contender], rounds: int) -> Comparison:
    """Run all of them `rounds` times; the first is the baseline. One that fails once runs no more."""
    named = {contender.name: contender for contender in contenders}
    runs: dict[str, list[Run]] = {name: [] for name in named}
    failures: dict[str, str] = {}
    for turn, names in enumerate(figures.order(list(named), rounds), start=1):
        for name in (name for name in names if name not in failures):
            earlier = [run for series in runs.values() for run in series]
            outcome = alike(measure(named[name]), earlier)
            say(f"round {turn} of {rounds}: {name}: {brief(outcome)}")
            if isinstance(outcome, Failure):
                failures[name] = outcome.reason
            else:
                runs[name].append(outcome)
    whole = {name: tuple(series) for name, series in runs.items() if name not in failures}
    return Comparison(contenders[0].name, whole, failures)


def alike(outcome: Run | Failure, earlier: Sequence[Run]) -> Run | Failure:
    """A run that made something else than the first one did is no faster way to the same thing."""
    if isinstance(outcome, Run) and earlier and outcome.made != earlier[0].made:
        return Failure(f"made {outcome.made[:12]!r} where the first run made {earlier[0].made[:12]!r}")
    return outcome


def brief(outcome: Run | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"left out: {outcome.reason}"
    return f"{number(outcome.wall_seconds)} s, {number(outcome.cpu_seconds)} s of processor time"


def say(text: str) -> None:
    """Progress goes to standard error; the tables alone to standard output."""
    print(text, file=sys.stderr, flush=True)
