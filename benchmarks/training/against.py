"""The line's loop against other trainers, on the same rows in the same steps, from the same initial weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Comparison, Contender, Failure, Figure, Findings, Options, number, spread, table
from benchmarks.measuring import checkout, lessons, operations
from benchmarks.peers import lesson as lesson_file
from benchmarks.peers.lesson import Lesson
from benchmarks.peers.peer import LLAMA_FACTORY, PEERS, TRL, UNSLOTH
from benchmarks.training import course

STEPS, QUICK_STEPS = 4, 2
LONGEST, QUICK_LONGEST = 1024, 384
PRODUCT_SECONDS, QUICK_PRODUCT_SECONDS = 0.5, 0.1
PRODUCTS = Path(__file__).parents[1] / "measuring" / "products.py"

TRL_AT_ITS_BEST = {
    "micro": 1, "adapter": "base", "model": {"dtype": "bfloat16"},
    "config": {"gradient_checkpointing": False, "bf16": False},
}  # fmt: skip
"""The fastest of those tried (docs/benchmarks.md): one row at a time, so nothing is padded; all in bfloat16."""
UNSLOTH_AT_ITS_BEST = {"micro": 1, "checkpointing": False, "config": {"gradient_checkpointing": False}}
FLOAT32 = {"micro": 1, "config": {"gradient_checkpointing": False, "bf16": False}}


def measured(options: Options, folder: Path, base: Path) -> Findings:
    steps, longest = (QUICK_STEPS, QUICK_LONGEST) if options.quick else (STEPS, LONGEST)
    lesson = lessons.make(base, folder / "adapter", steps, longest)
    file = folder / "lesson.json"
    lesson_file.write(file, lesson)
    seconds = QUICK_PRODUCT_SECONDS if options.quick else PRODUCT_SECONDS
    before = _products(base, lesson, seconds)
    comparison = harness.compare(
        [course.ours("tuneline", file, folder / "out"), *_peers(file, folder / "out")], options.rounds
    )
    products = _better(before, _products(base, lesson, seconds))
    found = harness.findings(_title(lesson), course.steps_only(comparison))
    tables = [*found.tables, _speeds(comparison), _bound(comparison, base, lesson, products), *_absent()]
    failures = {"products": products.reason} if isinstance(products, Failure) else {}
    return replace(found, tables=tables, failures={**found.failures, **failures})


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


def _absent() -> list[str]:
    return [f"not compared: {reason}" for peer in PEERS if (reason := peer.absent())]


def _title(lesson: Lesson) -> str:
    tokens, learned = sum(len(row.ids) for row in lesson.rows), operations.labelled(lesson.rows)
    return (
        f"{lesson.steps} steps of {lesson.rows_a_step} rows, {tokens:,} tokens, {learned:,} of them learned; "
        f"LoRA r={lesson.rank} on all linear layers. Time and memory of the steps alone"
    )


def _speeds(comparison: Comparison) -> str:
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


def _products(base: Path, lesson: Lesson, seconds: float) -> harness.Run | Failure:
    tokens, learned = operations.mean_shape(lesson)
    argv = (sys.executable, "-P", str(PRODUCTS), str(base), str(tokens), str(learned), str(seconds))
    return harness.measure(Contender("products", argv, base.parent, checkout.environment(checkout.ROOT), answers=True))


def _better(before: harness.Run | Failure, after: harness.Run | Failure) -> harness.Run | Failure:
    if isinstance(before, Failure) or isinstance(after, Failure):
        return before if isinstance(before, Failure) else after
    return max(before, after, key=lambda run: run.result["bfloat16"])


def _bound(comparison: Comparison, base: Path, lesson: Lesson, products: harness.Run | Failure) -> str:
    """Tokens a second if a step were nothing but its products, at the speed of this machine in the model's own shapes."""
    if isinstance(products, Failure):
        return ""
    tokens = sum(len(row.ids) for row in lesson.rows)
    operations_a_token = operations.of_lesson(lessons.shape(base), lesson) / tokens
    rows = list[list[str]]()
    for kind in ("bfloat16", "float32"):
        possible = products.result[kind] * 1e9 / operations_a_token
        shares = [
            spread(course.rate(comparison.runs[name], "seconds").over(possible / 100))
            if name in comparison.runs
            else ""
            for name in (comparison.baseline,)
        ]
        rows.append([kind, number(products.result[kind]), number(operations_a_token / 1e6), number(possible), *shares])
    head = [
        "products in",
        "GFLOP/s",
        "million operations a token",
        "tokens/s at most",
        f"{comparison.baseline}, % of it",
    ]
    return table("The bound: matrix products in the model's shapes", head, rows)
