"""The base from its GGUF file: by the line's own reader and by transformers, to equal bits."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Contender, Findings, Options, figures, spread, table
from benchmarks.measuring import checkout
from benchmarks.training.course import PEERS
from tasks.storage import bases

WAYS = ("tuneline", "transformers")


def measured(options: Options, folder: Path, ref: str) -> Findings:
    """Seconds of the import alone, and of the whole process. Exit code 1 where the weights are not equal, bit by bit."""
    base = bases.find(ref, None)
    if not isinstance(base, bases.GgufBase):
        return Findings(failures={"GGUF import": f"fetch.ref is {ref}: expected gguf:PACKAGE or gguf:FILE"})
    comparison = harness.compare([_contender(way, base.path, folder / "imported") for way in WAYS], options.rounds)
    named = {f"GGUF import by {name}": runs for name, runs in comparison.runs.items()}
    failures = {f"GGUF import by {name}": reason for name, reason in comparison.failures.items()}
    digests = {run.result["digest"] for runs in named.values() for run in runs}
    if len(digests) > 1:
        failures["GGUF import"] = "the two ways gave different weights"
    if failures:
        return Findings(failures=failures)
    whole = figures.ratios(comparison.runs, WAYS[0], "wall_seconds")
    rows, ratios = list[list[str]](), dict[str, object]()
    for name, runs in comparison.runs.items():
        alone = [float(run.result["seconds"]) for run in runs]
        below = [float(run.result["seconds"]) for run in comparison.runs[WAYS[0]]]
        ratio = harness.Figure.of([above / one for above, one in zip(alone, below, strict=True)])
        if name != WAYS[0]:
            ratios[f"GGUF import: {name} / {WAYS[0]}"] = {
                "seconds": ratio.as_json(),
                "wall_seconds": whole[name].as_json(),
            }
        rows.append([
            name, spread(harness.Figure.of(alone)), spread(ratio),
            spread(harness.Figure.of(figures.values(runs, "wall_seconds"))), spread(whole[name]),
            harness.number(max(run.peak_rss_bytes for run in runs) / 1e6),
        ])  # fmt: skip
    head = ["by", "import s", "ratio", "whole process s", "ratio", "peak MB"]
    title = "The base from GGUF, equal bit by bit"
    return Findings(ratios, {name: figures.absolute(runs) for name, runs in named.items()}, [table(title, head, rows)])


def _contender(way: str, file: Path, out: Path) -> Contender:
    argv = ("python", str(PEERS / "gguf_import.py"), way, str(file), str(out))
    environment = checkout.environment(checkout.ROOT)
    return Contender(way, argv, out.parent, environment, lambda: shutil.rmtree(out, ignore_errors=True), answers=True)
