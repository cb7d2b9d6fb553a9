"""How much of what the machine's matrix products allow a contender reaches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Comparison, Contender, Failure, Findings, Run, number, spread, table
from benchmarks.measuring import checkout, lessons, operations
from benchmarks.peers.lesson import Lesson
from benchmarks.training import course

PRODUCTS = Path(__file__).parents[1] / "measuring" / "products.py"
TYPES = ("bfloat16", "float32")
CLOCKS = ("seconds", "cpu_seconds")


def products(base: Path, lesson: Lesson, seconds: float) -> Run | Failure:
    """GFLOP for a second of each of CLOCKS in each of TYPES, in the shapes of the lesson's mean step."""
    tokens, learned = operations.mean_shape(lesson)
    argv = (sys.executable, "-P", str(PRODUCTS), str(base), str(tokens), str(learned), str(seconds))
    return harness.measure(Contender("products", argv, base.parent, checkout.environment(checkout.ROOT), answers=True))


def better(before: Run | Failure, after: Run | Failure) -> Run | Failure:
    """The faster of two: somebody else's work can only slow one down."""
    if isinstance(before, Failure) or isinstance(after, Failure):
        return before if isinstance(before, Failure) else after
    return max(before, after, key=lambda run: run.result[TYPES[0]]["seconds"])


def share(comparison: Comparison, base: Path, lesson: Lesson, products: Run | Failure) -> Findings:
    """The baseline's tokens a second beside those of a step that is nothing but its products, at the measured speed."""
    if isinstance(products, Failure):
        return Findings(failures={"products": products.reason})
    if comparison.baseline not in comparison.runs:  # why is said among the comparison's own failures
        return Findings()
    runs, tokens = comparison.runs[comparison.baseline], sum(len(row.ids) for row in lesson.rows)
    each = operations.of_lesson(lessons.shape(base), lesson) / tokens
    rows, shares = list[list[str]](), dict[str, Any]()
    for kind in TYPES:
        speed = products.result[kind]
        reached = {clock: course.rate(runs, clock).over(speed[clock] * 1e9 / each) for clock in CLOCKS}
        shares[f"share of the bound in {kind}"] = {clock: figure.as_json() for clock, figure in reached.items()}
        possible = speed["seconds"] * 1e9 / each
        cells = [spread(reached[clock], 0.01) for clock in CLOCKS]
        rows.append([kind, number(speed["seconds"]), number(each / 1e6), number(possible), *cells])
    head = ["products in", "GFLOP/s", "million operations a token", "tokens/s at most"]
    head += [f"{comparison.baseline}, % of it", "the same by CPU time"]
    return Findings(shares, {}, [table("The bound: matrix products in the model's shapes", head, rows)])
