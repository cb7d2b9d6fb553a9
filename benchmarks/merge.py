"""A LoRA merged into a random Llama of 1.1 B parameters in several bfloat16 files: the line, PEFT, and `cp` of the same bytes.

PEFT loads the model in bfloat16, runs `merge_and_unload` and `save_pretrained`. Every contender is a process of its own, imports
included; none of them waits until its files are on the disk, and what was written before has been when the next one begins.
Then the line alone with 3 B parameters: its memory should be the same.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import (
    Comparison,
    Contender,
    Figure,
    Findings,
    Flag,
    Options,
    Unprepared,
    figures,
    table,
)
from benchmarks.measuring import checkout

SHAPE, LARGER, QUICK = "1.1B", "3B", ("tiny", "small")
OURS, PEFT, COPY = "tuneline", "PEFT", "cp"
PROGRAMS = Path(__file__).parent / "merging"
MODELS = Flag(
    "models", "where the random models are kept, and found again (9 GB); else they are made anew", folder=True
)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("merge", __doc__, measured, rounds=3, quick_rounds=1, argv=argv, flags=[MODELS])


def measured(options: Options) -> Findings:
    with tempfile.TemporaryDirectory(prefix="merge-") as name:
        models = options.flags["models"] or Path(name)
        return _measured(models.absolute(), Path(name) / "out", options)


def _measured(models: Path, out: Path, options: Options) -> Findings:
    shape, larger = QUICK if options.quick else (SHAPE, LARGER)
    model = _model(models, shape)
    against = harness.compare([_ours(OURS, model, out), _peft(model, out), _copy(model, out)], options.rounds)
    name = f"{OURS}, {larger}"
    alone = harness.compare([_ours(name, _model(models, larger), out)], options.rounds)
    found = harness.findings(f"A LoRA of rank 16 into {shape} parameters", against)
    rest = harness.findings(f"Into {larger}", alone)
    ratios = _ratios(against, alone, name)
    rows = [[label, harness.spread(figure)] for label, figure in ratios.items()]
    return Findings(
        {**found.ratios, **{label: figure.as_json() for label, figure in ratios.items()}},
        {**found.absolute, **rest.absolute}, [*found.tables, *rest.tables, table("Ratios", ["ratio", "value"], rows)],
        {**found.failures, **rest.failures},
    )  # fmt: skip


def _ratios(against: Comparison, alone: Comparison, name: str) -> dict[str, Figure]:
    """The line's figures over the others', round by round; and the larger model's memory over the smaller one's."""
    found: dict[str, Figure] = {}
    for other in (PEFT, COPY):
        if other in against.runs and OURS in against.runs:
            found[f"wall, {OURS} / {other}"] = figures.ratios(against.runs, other, "wall_seconds")[OURS]
    if PEFT in against.runs and OURS in against.runs:
        found[f"peak memory, {OURS} / {PEFT}"] = figures.ratios(against.runs, PEFT, "peak_rss_bytes")[OURS]
    if OURS in against.runs and name in alone.runs:
        both = {**alone.runs, OURS: against.runs[OURS]}
        found["peak memory, larger / smaller model"] = figures.ratios(both, OURS, "peak_rss_bytes")[name]
    return found


def _model(models: Path, shape: str) -> Path:
    """The folder of the base and its adapter, made where it is not there yet."""
    folder, partial = models / shape, models / f"{shape}.partial"
    if not folder.is_dir():
        harness.say(f"writing a random model of {shape} parameters")
        shutil.rmtree(partial, ignore_errors=True)
        argv = ("python", str(PROGRAMS / "random_model.py"), str(partial), shape)
        outcome = harness.measure(Contender("random model", argv, checkout.ROOT, _environment()))
        if isinstance(outcome, harness.Failure):
            raise Unprepared(f"the random model of {shape}: {outcome.reason}")
        partial.rename(folder)
    return folder


def _ours(name: str, model: Path, out: Path) -> Contender:
    return _program(name, "by_tuneline.py", model, out)


def _peft(model: Path, out: Path) -> Contender:
    return _program(PEFT, "by_peft.py", model, out)


def _program(name: str, file: str, model: Path, out: Path) -> Contender:
    argv = ("python", str(PROGRAMS / file), str(model / "base"), str(model / "adapter"), str(out))
    return Contender(name, argv, checkout.ROOT, _environment(), lambda: _cleared(out))


def _copy(model: Path, out: Path) -> Contender:
    return Contender(
        COPY, ("cp", "-r", str(model / "base"), str(out)), checkout.ROOT, _environment(), lambda: _cleared(out)
    )


def _cleared(out: Path) -> None:
    """Nothing is left of the run before, in the folder or on its way to the disk."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()


def _environment() -> dict[str, str]:
    return checkout.environment(checkout.ROOT)


if __name__ == "__main__":
    sys.exit(main())
