"""Contenders that train on one lesson, and what their steps took."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Comparison, Contender, Figure, Findings, Run
from benchmarks.measuring import checkout

PEERS = Path(__file__).parents[1] / "peers"


def ours(
    name: str, lesson: Path, out: Path, setting: Mapping[str, Any] | None = None, script: str = "tuneline_train.py"
) -> Contender:
    """The line's own loop, with more of the `train` section in `setting`."""
    argv = ("python", str(PEERS / script), str(lesson), str(out), json.dumps(setting or {}))
    environment = checkout.environment(checkout.ROOT)
    return Contender(name, argv, out.parent, environment, lambda: shutil.rmtree(out, ignore_errors=True), answers=True)


def steps_only(comparison: Comparison, first: int = 0) -> Comparison:
    """The same runs with the time of their steps from `first` on in place of the whole process's, and its memory at their end."""
    runs = {name: tuple(_steps(run, first) for run in series) for name, series in comparison.runs.items()}
    return replace(comparison, runs=runs)


def _steps(run: Run, first: int) -> Run:
    peak = int(run.result["peak_rss_bytes"])
    return replace(
        run, wall_seconds=sum(run.result["seconds"][first:]), cpu_seconds=sum(run.result["cpu_seconds"][first:]),
        peak_rss_bytes=peak, tree_rss_bytes=peak,
    )  # fmt: skip


def rate(runs: Sequence[Run], clock: str, first: int = 0) -> Figure:
    """Tokens of the steps from `first` on, without padding, for each second of the clock (`seconds` or `cpu_seconds`)."""
    return Figure.of([sum(run.result["tokens"][first:]) / sum(run.result[clock][first:]) for run in runs])


def apart(run: Run, other: Run) -> float:
    """The largest difference between their losses at a step."""
    return max(abs(mine - its) for mine, its in zip(run.result["losses"], other.result["losses"], strict=True))


def joined(*parts: Findings) -> Findings:
    """All of them, one after another. Law: no name stands in two of them, so nothing is lost."""
    return Findings(
        {name: value for part in parts for name, value in part.ratios.items()},
        {name: value for part in parts for name, value in part.absolute.items()},
        [text for part in parts for text in part.tables if text],
        {name: value for part in parts for name, value in part.failures.items()},
    )
