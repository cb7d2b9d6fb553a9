"""From a landing file to packs ready to train on: rows a second and peak memory, against TRL and LLaMA-Factory.

Every contender reads the same JSON-lines file (10 % of its rows are exact duplicates), renders and tokenises it with the
same template and tokenizer, marks the answers, and packs to 1,024 tokens, with two processes. The peers do no more than that.
`tuneline` also checks every row, keeps it once, accounts for it, splits by prompt and writes the data card; `tuneline, all
rules` judges quality as params.yaml does by default. Then the same for growing corpora, without the peers.

The peers need an environment each, which `make peers` makes (docs/benchmarks.md); one that is not there is left out of the
table.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Comparison, Contender, Figure, Findings, Options, number, table
from benchmarks.measuring import checkout, corpus
from benchmarks.peers.peer import PREPARE
from benchmarks.peers.task import Task
from tasks.core import params
from tasks.fetch import fetch

ROWS, QUICK_ROWS = 100_000, 2_000
GROWTH, QUICK_GROWTH = (10_000, 100_000, 1_000_000), (1_000, 4_000)
SEED = 1
MAX_LENGTH, PROCESSES = 1024, 2
PLAIN, JUDGED = "tuneline", "tuneline, all rules"


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("prepare", __doc__, measured, rounds=3, quick_rounds=1, argv=argv)


def measured(options: Options) -> Findings:
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        folder = Path(name)
        fetch(params.load(checkout.ROOT / params.FILE).fetch, out=folder / "base")
        against = _against(folder, QUICK_ROWS if options.quick else ROWS, options.rounds)
        growth = _growth(folder, QUICK_GROWTH if options.quick else GROWTH)
    return Findings(
        against.ratios, {**against.absolute, **growth.absolute}, [*against.tables, *growth.tables],
        {**against.failures, **growth.failures},
    )  # fmt: skip


def _against(folder: Path, rows: int, rounds: int) -> Findings:
    made = corpus.write(folder / "rows.jsonl", rows, SEED)
    title = (
        f"{made.rows:,} rows ({made.distinct:,} distinct, {made.bytes / 1e6:.0f} MB) to packs of {MAX_LENGTH} tokens"
    )
    task = Task(folder / "rows.jsonl", folder / "base", MAX_LENGTH, PROCESSES, folder / "out")
    peers = [peer.prepares(task) for peer in PREPARE if not peer.absent()]
    comparison = harness.compare([_ours(PLAIN, task), _ours(JUDGED, task), *peers], rounds)
    found = harness.findings(title, comparison)
    note = [f"not compared: {reason}" for peer in PREPARE if (reason := peer.absent())]
    return replace(found, tables=[*found.tables, _rates(comparison, rows), *note])


def _rates(comparison: Comparison, rows: int) -> str:
    """Rows a second with and without the start of the process, and what came out."""
    lines = [
        [
            name, number(Figure.of([rows / run.wall_seconds for run in runs]).median),
            number(Figure.of([rows / float(run.result["seconds"]) for run in runs]).median),
            f"{runs[0].result['tokens']:,}", f"{runs[0].result['packs']:,}",
        ]
        for name, runs in comparison.runs.items()
    ]  # fmt: skip
    return table("Rows a second", ["contender", "whole process", "without imports", "tokens", "packs"], lines)


def _ours(name: str, task: Task) -> Contender:
    given = (task.file, task.base, task.max_length, task.processes, task.out)
    argv = ("python", str(Path(__file__).parent / "peers" / "tuneline_prepare.py"), *map(str, given))
    environment = checkout.environment(checkout.ROOT) | ({"RULES": "ignore"} if name == PLAIN else {})
    return Contender(
        name, argv, task.out.parent, environment, lambda: shutil.rmtree(task.out, ignore_errors=True), answers=True
    )


def _growth(folder: Path, sizes: Sequence[int]) -> Findings:
    """All rules on: time should grow with the rows, memory should not."""
    lines, absolute, failures = list[list[str]](), dict[str, object](), dict[str, str]()
    for rows in sizes:
        corpus.write(folder / "grown.jsonl", rows, SEED)
        task = Task(folder / "grown.jsonl", folder / "base", MAX_LENGTH, PROCESSES, folder / "out")
        name = f"{rows:,} rows"
        comparison = harness.compare([replace(_ours(JUDGED, task), name=name)], 1)
        failures |= comparison.failures
        for run in comparison.runs.get(name, ()):
            lines.append([
                name, number(run.wall_seconds), number(rows / run.wall_seconds), number(run.peak_rss_bytes / 1e6),
                number(run.tree_rss_bytes / 1e6),
            ])  # fmt: skip
            absolute[name] = {
                "wall_seconds": run.wall_seconds, "cpu_seconds": run.cpu_seconds,
                "peak_rss_bytes": run.peak_rss_bytes, "tree_rss_bytes": run.tree_rss_bytes,
            }  # fmt: skip
    head = ["corpus", "wall s", "rows/s", "largest process MB", "all processes MB"]
    return Findings({}, absolute, [table("tuneline, all rules, growing", head, lines)], failures)


if __name__ == "__main__":
    sys.exit(main())
