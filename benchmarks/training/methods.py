"""What a step of another method costs beside one of LoRA, in the line's own loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Findings, Options, figures, spread, table
from benchmarks.training import course
from tasks.ml import methods

BASELINE = "LoRA"
METHODS: Mapping[str, dict[str, Any]] = {
    BASELINE: {"method": "lora"}, "DoRA": {"method": "dora"}, "AdaLoRA": {"method": "adalora"},
}  # fmt: skip


def measured(options: Options, folder: Path, lesson: Path) -> Findings:
    """Ratios are of the steps after the first: what a method does once is no part of its step."""
    there = {name: setting for name, setting in METHODS.items() if setting["method"] in methods.known()}
    contenders = [course.ours(name, lesson, folder / "out", setting) for name, setting in there.items()]
    comparison = harness.compare(contenders, options.rounds)
    steps = course.steps_only(comparison, first=1)
    if BASELINE not in steps.runs:
        return Findings(failures=comparison.failures)
    wall, cpu = (figures.ratios(steps.runs, BASELINE, measure) for measure in ("wall_seconds", "cpu_seconds"))
    rows = [
        [
            name, spread(course.rate(comparison.runs[name], "seconds", first=1)), spread(wall[name]), spread(cpu[name]),
            harness.number(max(run.peak_rss_bytes for run in runs) / 1e6),
        ]
        for name, runs in steps.runs.items()
    ]  # fmt: skip
    ratios = {
        f"{name} / {BASELINE}": {"wall_seconds": wall[name].as_json(), "cpu_seconds": cpu[name].as_json()}
        for name in steps.runs
        if name != BASELINE
    }
    head = ["method", "tokens/s", "wall ratio", "CPU ratio", "peak MB"]
    absolute = {f"method {name}": figures.absolute(runs) for name, runs in steps.runs.items()}
    return Findings(ratios, absolute, [table("Steps of other methods", head, rows)], comparison.failures)
