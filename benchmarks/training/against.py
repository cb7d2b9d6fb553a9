"""The line's loop against other trainers, on the same rows in the same steps, from the same initial weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Comparison, Contender, Figure, Findings, Options, spread, table
from benchmarks.measuring import lessons, operations
from benchmarks.peers import lesson as lesson_file
from benchmarks.peers.lesson import Lesson
from benchmarks.peers.peer import LLAMA_FACTORY, PEERS, TRL, UNSLOTH
from benchmarks.training import bound, course

STEPS, QUICK_STEPS = 3, 2
ROWS_A_STEP, QUICK_ROWS_A_STEP = 8, 4
LONGEST, QUICK_LONGEST = 1024, 384
"""Tokens of a row; longer ones are left out."""
PRODUCT_SECONDS, QUICK_PRODUCT_SECONDS = 0.5, 0.1

TRL_AT_ITS_BEST = {
    "micro": 1, "adapter": "base", "model": {"dtype": "bfloat16"},
    "config": {"gradient_checkpointing": False, "bf16": False},
}  # fmt: skip
"""The fastest of those tried (docs/benchmarks.md): one row at a time, so nothing is padded; all in bfloat16."""
UNSLOTH_AT_ITS_BEST = {"micro": 1, "checkpointing": False, "config": {"gradient_checkpointing": False}}
FLOAT32 = {"micro": 1, "config": {"gradient_checkpointing": False, "bf16": False}}


def measured(options: Options, folder: Path, base: Path) -> Findings:
    file = write(options, folder, base)
    lesson = lesson_file.load(file)
    seconds = QUICK_PRODUCT_SECONDS if options.quick else PRODUCT_SECONDS
    before = bound.products(base, lesson, seconds)
    comparison = harness.compare(
        [course.ours("tuneline", file, folder / "out"), *_peers(file, folder / "out")], options.rounds
    )
    products = bound.better(before, bound.products(base, lesson, seconds))
    found = harness.findings(_title(lesson), course.steps_only(comparison))
    tables = [*found.tables, speeds(comparison), *absent()]
    return course.joined(replace(found, tables=tables), bound.share(comparison, base, lesson, products))


def write(options: Options, folder: Path, base: Path) -> Path:
    """The lesson's file."""
    whole, quick = (STEPS, LONGEST, ROWS_A_STEP), (QUICK_STEPS, QUICK_LONGEST, QUICK_ROWS_A_STEP)
    file = folder / "lesson.json"
    lesson_file.write(file, lessons.make(base, folder / "adapter", *(quick if options.quick else whole)))
    return file


def parity(folder: Path) -> Findings:
    """Both in float32 on the lesson of `measured`: what is left of a difference is not rounding."""
    if reason := TRL.absent():
        return Findings(tables=[f"not compared in float32: {reason}"])
    mine = course.ours("tuneline", folder / "lesson.json", folder / "out", {"launch": {"dtype": "float32"}})
    its = TRL.trains(folder / "lesson.json", folder / "out", FLOAT32)
    comparison = harness.compare([mine, its], 1)
    if comparison.failures:
        return Findings(failures={f"{name}, float32": reason for name, reason in comparison.failures.items()})
    mean = {name: runs[0].result["losses"] for name, runs in comparison.runs.items()}
    rows = [[name, *(f"{loss:.5f}" for loss in losses)] for name, losses in mean.items()]
    head = ["contender", *(f"step {step + 1}" for step in range(len(rows[0]) - 1))]
    return Findings(absolute={"losses in float32": mean}, tables=[table("The same losses in float32", head, rows)])


def _peers(file: Path, out: Path) -> list[Contender]:
    everyone = [
        (TRL, TRL.trains(file, out, {}, "as shipped")), (TRL, TRL.trains(file, out, TRL_AT_ITS_BEST, "at its best")),
        (UNSLOTH, UNSLOTH.trains(file, out, {})),
        (UNSLOTH, UNSLOTH.trains(file, out, UNSLOTH_AT_ITS_BEST, "without recomputing")),
        (LLAMA_FACTORY, LLAMA_FACTORY.trains(file, out, {})),
    ]  # fmt: skip
    return [contender for peer, contender in everyone if not peer.absent()]


def absent() -> list[str]:
    return [f"not compared: {reason}" for peer in PEERS if (reason := peer.absent())]


def _title(lesson: Lesson) -> str:
    tokens, learned = sum(len(row.ids) for row in lesson.rows), operations.labelled(lesson.rows)
    return (
        f"{lesson.steps} steps of {lesson.rows_a_step} rows, {tokens:,} tokens, {learned:,} of them learned; "
        f"LoRA r={lesson.rank} on all linear layers. Time and memory of the steps alone"
    )


def speeds(comparison: Comparison) -> str:
    reference = comparison.runs.get(comparison.baseline)
    rows = [
        [
            name, spread(course.rate(runs, "seconds")), spread(course.rate(runs, "cpu_seconds")),
            spread(course.rate(runs, "cpu_seconds", first=1)),
            f"{max(course.apart(run, reference[0]) for run in runs):.4f}" if reference else "",
            spread(Figure.of([run.result["ready_seconds"] for run in runs])),
        ]
        for name, runs in comparison.runs.items()
    ]  # fmt: skip
    head = [
        "contender", "tokens/s", "tokens/CPU s", "tokens/CPU s after the first step", "largest difference of a loss",
        "process start to first step done, s",
    ]  # fmt: skip
    return table("Speed, and whether it is the same training", head, rows)
