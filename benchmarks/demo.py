"""The demo from end to end, by stage: rows taken in, `tuneline run` with the real base model, and once more with nothing to do.

It runs in a clone of the working tree of its own, with the embedded services. Ten minutes on two cores; the packages
are there already, as in a second `make demo`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Comparison, Contender, Failure, Figure, Findings, Options, Run, figures, table
from benchmarks.measuring import checkout

INGEST, FIRST, SECOND = "tuneline data ingest", "tuneline run", "tuneline run again"
REST = "services, Prefect, DVC, publishing"
QUICK = ("--set", "train.epochs=1")
LIMIT_SECONDS = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("demo", __doc__, measured, rounds=1, quick_rounds=1, argv=argv)


def measured(options: Options) -> Findings:
    rounds = [_clone(options.quick) for _ in range(options.rounds)]
    failures = {name: run.reason for one in rounds for name, run in one.items() if isinstance(run, Failure)}
    series = {name: [run for one in rounds if isinstance(run := one.get(name), Run)] for name in rounds[0]}
    runs = {name: whole for name, whole in series.items() if len(whole) == len(rounds)}
    return findings(Comparison(FIRST, runs, failures))


def _clone(quick: bool) -> dict[str, Run | Failure]:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        place = checkout.make(Path(folder) / "clone")
        checkout.settle(place)
        return sequence(place, QUICK if quick else ())


def sequence(place: Path, settings: Sequence[str]) -> dict[str, Run | Failure]:
    """The demo's commands one after another in this checkout, as far as they succeed."""
    line = ("tuneline", "run", "--json", *settings)
    outcomes: dict[str, Run | Failure] = {}
    for name, argv in {INGEST: ("tuneline", "data", "ingest", "data/sample"), FIRST: line, SECOND: line}.items():
        environment, answers = checkout.environment(place), argv is line
        contender = Contender(name, argv, place, environment, answers=answers, limit_seconds=LIMIT_SECONDS)
        outcomes[name] = harness.measure(contender)
        harness.say(f"{name}: {harness.brief(outcomes[name])}")
        if isinstance(outcomes[name], Failure):
            break
    return outcomes | nothing_ran(outcomes.get(SECOND))


def nothing_ran(second: Run | Failure | None) -> dict[str, Failure]:
    """A second run that had something to do is no second run."""
    ran = second.result["ran"] if isinstance(second, Run) else []
    return {SECOND: Failure(f"ran {', '.join(ran)} where nothing had changed")} if ran else {}


def findings(comparison: Comparison) -> Findings:
    found = harness.findings("The demo's commands", comparison)
    runs = comparison.runs
    if INGEST not in runs or FIRST not in runs:
        return found
    parts = _parts(runs)
    total = Figure.of([sum(seconds) for seconds in zip(*parts.values(), strict=True)])
    shares = {name: Figure.of(seconds).median / total.median for name, seconds in parts.items()}
    absolute = {name: Figure.of(seconds).as_json() for name, seconds in parts.items()}
    return Findings(
        {**found.ratios, "share of the demo": {name: round(share, 4) for name, share in shares.items()}},
        {**found.absolute, "parts_wall_seconds": {**absolute, "total": total.as_json()}},
        [_table(parts, shares, total), *found.tables], found.failures,
    )  # fmt: skip


def _parts(runs: figures.Runs) -> dict[str, list[float]]:
    """Seconds of each part in every round: taking in, each stage in the order it ran, and what lies around the stages.

    Law: the parts of a round add up to the wall time of its two commands.
    """
    stages: list[Mapping[str, float]] = [run.result["seconds"] for run in runs[FIRST]]
    return {
        INGEST: figures.values(runs[INGEST], "wall_seconds"),
        **{stage: [seconds[stage] for seconds in stages] for stage in stages[0]},
        REST: [run.wall_seconds - sum(seconds.values()) for run, seconds in zip(runs[FIRST], stages, strict=True)],
    }


def _table(parts: Mapping[str, Sequence[float]], shares: Mapping[str, float], total: Figure) -> str:
    rows = [[name, harness.spread(Figure.of(seconds)), f"{100 * shares[name]:.1f}%"] for name, seconds in parts.items()]
    return table("The demo by stage", ["part", "wall s", "share"], [*rows, ["total", harness.spread(total), "100%"]])


if __name__ == "__main__":
    sys.exit(main())
