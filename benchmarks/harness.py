"""What the machine can do at best; and, for the other scripts, contenders measured against each other.

A script gives `main` a function from `Options` to `Findings`; the flags, the machine and its ceilings, the
table and the JSON file come from here.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks.measuring import figures, machine
from benchmarks.measuring.child import Contender, Failure, Run, Unprepared, measure
from benchmarks.measuring.comparison import Comparison, brief, compare, say
from benchmarks.measuring.figures import Figure
from benchmarks.measuring.table import number, spread, table

__all__ = [
    "Comparison", "Contender", "Failure", "Figure", "Findings", "Flag", "Options", "Run", "Unprepared",
    "brief", "compare", "figures", "findings", "main", "measure", "number", "say", "spread", "table",
]  # fmt: skip

CEILING_SECONDS = 2.0
QUICK_CEILING_SECONDS = 0.3
NAMES = {
    "product_float32_gflops": "matrix product in float32, GFLOP/s",
    "product_bfloat16_gflops": "matrix product in bfloat16, GFLOP/s",
    "copy_gigabytes_per_second": "memory copy, GB/s",
    "sha256_gigabytes_per_second": "SHA-256 on one core, GB/s",
}


@dataclass(frozen=True)
class Flag:
    """A switch that one script has beside the usual ones; with `folder`, it takes a path, which is the reader's own."""

    name: str
    help: str
    folder: bool = False


@dataclass(frozen=True)
class Options:
    """`rounds`: how often every contender runs. `flags`: the script's own, by name: a bool, or a path or None."""

    quick: bool
    rounds: int
    flags: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Findings:
    """`failures`: what was left out of the ratios and tables, and why."""

    ratios: Mapping[str, Any] = field(default_factory=dict[str, Any])
    absolute: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tables: Sequence[str] = ()
    failures: Mapping[str, str] = field(default_factory=dict[str, str])


def findings(title: str, comparison: Comparison) -> Findings:
    """The usual table of a comparison, its ratios and its figures."""
    runs, baseline = comparison.runs, comparison.baseline
    wall, cpu = (
        figures.ratios(runs, baseline, measure) if baseline in runs else {}
        for measure in ("wall_seconds", "cpu_seconds")
    )
    rows = [_row(name, series, wall.get(name), cpu.get(name)) for name, series in runs.items()]
    head = ["contender", "wall s", "CPU s", "largest process MB", "all processes MB", "wall ratio", "CPU ratio"]
    return Findings(
        ratios={
            f"{name} / {baseline}": {"wall_seconds": wall[name].as_json(), "cpu_seconds": cpu[name].as_json()}
            for name in wall
            if name != baseline
        },
        absolute={name: figures.absolute(series) for name, series in runs.items()},
        tables=[table(title, head, rows)],
        failures=comparison.failures,
    )


def _row(name: str, runs: Sequence[Run], wall: Figure | None, cpu: Figure | None) -> list[str]:
    one = {measure: Figure.of(figures.values(runs, measure)) for measure in figures.MEASURES}
    return [
        name, spread(one["wall_seconds"]), spread(one["cpu_seconds"]),
        number(one["peak_rss_bytes"].high / 1e6), number(one["tree_rss_bytes"].high / 1e6),
        spread(wall) if wall else "", spread(cpu) if cpu else "",
    ]  # fmt: skip


def main(
    name: str, about: str | None, measured: Callable[[Options], Findings], rounds: int, quick_rounds: int,
    argv: Sequence[str] | None = None, flags: Sequence[Flag] = (),
) -> int:  # fmt: skip
    """Run one script. Exit code 1 where anything failed: a benchmark with a hole in it is not green."""
    arguments = _arguments(name, about, rounds, quick_rounds, argv, flags)
    own = {flag.name: getattr(arguments, flag.name) for flag in flags}
    options = Options(arguments.quick, arguments.rounds or (quick_rounds if arguments.quick else rounds), own)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        found, described = _with_ceilings(measured, options)
    finally:
        signal.signal(signal.SIGTERM, before)
    _show(found, described)
    if arguments.json:
        _write(arguments.json, _document(name, found, described, _command(name, arguments, flags)))
    return int(bool(found.failures))


def _with_ceilings(measured: Callable[[Options], Findings], options: Options) -> tuple[Findings, dict[str, Any]]:
    """The findings, and the machine with its ceilings from before and after."""
    described, seconds = machine.describe(), QUICK_CEILING_SECONDS if options.quick else CEILING_SECONDS
    before = machine.ceilings(seconds)
    try:
        found = measured(options)
    except Unprepared as error:
        found = Findings(failures={"everything": str(error)})
    ceilings = machine.highest(before, machine.ceilings(seconds))
    if isinstance(ceilings, Failure):
        return replace(found, failures={**found.failures, "ceilings": ceilings.reason}), described
    return found, {**described, "ceilings": ceilings}


def _document(name: str, found: Findings, described: Mapping[str, Any], command: str) -> dict[str, Any]:
    failed = {contender: {"failed": reason} for contender, reason in found.failures.items()}
    return {
        "name": name, "ratios": found.ratios, "absolute": {**found.absolute, **failed},
        "machine": described, "command": command,
    }  # fmt: skip


def _terminate(number: int, _frame: object) -> None:
    """SIGTERM ends the contender that runs and removes its folders, as Ctrl-C does."""
    raise SystemExit(128 + number)


def _arguments(
    name: str, about: str | None, rounds: int, quick_rounds: int, argv: Sequence[str] | None, flags: Sequence[Flag]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"benchmarks/{name}.py", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the shortest run that still measures everything")
    parser.add_argument("--rounds", type=int, help=f"of every contender (default: {rounds}; quick: {quick_rounds})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    for flag in flags:
        kind: dict[str, Any] = {"type": Path, "metavar": "FOLDER"} if flag.folder else {"action": "store_true"}
        parser.add_argument(f"--{flag.name}", help=flag.help, **kind)
    arguments = parser.parse_args(argv)
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: expected 1 or more")
    if arguments.json and not arguments.json.absolute().parent.is_dir():  # said now, not after the last run
        parser.error(f"--json {arguments.json}: there is no folder {arguments.json.parent}: make it first")
    return arguments


def _command(name: str, arguments: argparse.Namespace, flags: Sequence[Flag]) -> str:
    """What gives the same figures again, but for paths, which are the reader's own."""
    rounds = ["--rounds", str(arguments.rounds)] if arguments.rounds else []
    own = [f"--{flag.name}" for flag in flags if not flag.folder and getattr(arguments, flag.name)]
    return shlex.join(["python", f"benchmarks/{name}.py", *(["--quick"] if arguments.quick else []), *rounds, *own])


def _show(found: Findings, described: Mapping[str, Any]) -> None:
    for text in found.tables:
        print(f"\n{text}")
    if "ceilings" in described:
        rows = [[label, number(described["ceilings"][key])] for key, label in NAMES.items()]
        print("\n" + table("This machine at best", ["ceiling", "value"], rows))
    print(
        f"\n{described['processor']}, {described['cores']} cores, {described['memory_gigabytes']} GB, "
        f"{described['system']}, Python {described['python']}, load {described['load']} at the start"
    )
    for contender, reason in found.failures.items():
        print(f"left out: {contender}: {reason}")


def _write(file: Path, value: Mapping[str, Any]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    sys.exit(main("harness", __doc__, lambda _options: Findings(), rounds=1, quick_rounds=1))
