"""What each method costs: processor time of an optimizer step beside LoRA's, and how many parameters train.

SmolLM2-135M, rank 16 where a method has a rank, all linear layers, real conversations, packed; defaults otherwise.
One process for all, so that no import counts; the first step, in which a method may prepare something, does not count either.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Contender, Failure, Findings, Options, table
from benchmarks.measuring import checkout, lessons
from benchmarks.peers import lesson
from tasks.core import params
from tasks.fetch import fetch

STEPS, QUICK_STEPS = 3, 2
ROWS, QUICK_ROWS = 2, 1
LONGEST = 384


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("methods", __doc__, measured, rounds=1, quick_rounds=1, argv=argv)


def measured(options: Options) -> Findings:
    with tempfile.TemporaryDirectory(prefix="methods-") as name:
        folder = Path(name)
        fetch(params.load(checkout.ROOT / params.FILE).fetch, out=folder / "base")
        steps, rows = (QUICK_STEPS, QUICK_ROWS) if options.quick else (STEPS, ROWS)
        made = lessons.make(folder / "base", folder / "adapter", steps, LONGEST, rows)
        lesson.write(folder / "lesson.json", made)
        script = Path(__file__).parent / "peers" / "tuneline_methods.py"
        argv = (sys.executable, str(script), str(folder / "lesson.json"))
        run = harness.measure(Contender("methods", argv, folder, checkout.environment(checkout.ROOT), answers=True))
    return Findings(failures={"methods": run.reason}) if isinstance(run, Failure) else _findings(run.result)


def _findings(result: Mapping[str, dict[str, Any]]) -> Findings:
    done = {name: value for name, value in sorted(result.items()) if "failed" not in value}
    rows = [[name, f"{value['ratio']:.2f}", f"{value['trainable']:,}"] for name, value in done.items()]
    head = ["method", "step / LoRA's step, CPU seconds", "trainable parameters"]
    return Findings(
        ratios={name: value["ratio"] for name, value in done.items()}, absolute=done,
        tables=[table("Steps of all methods", head, rows)],
        failures={name: str(value["failed"]) for name, value in result.items() if "failed" in value},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
