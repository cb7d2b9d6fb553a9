"""What the run comes to: the leading measure of base, tuned and quantised model, with its count and interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from tasks.data.report.columns import Column
from tasks.data.report.comparison import Comparison, Row
from tasks.data.report.evaluations import Evaluation


@dataclass(frozen=True)
class Headline:
    """One target; `hits` and the 95% interval are those of an exact match, and missing for other measures."""

    role: str
    target: str
    value: float | None
    hits: int | None
    interval: tuple[float, float] | None


def headlines(table: Comparison, evaluations: Sequence[Evaluation]) -> Iterator[Headline]:
    by_target = {evaluation.target: evaluation for evaluation in evaluations}
    roles: dict[str, Row | None] = {"Base": table.base, "Tuned": table.tuned, "Quantised": table.quantized}
    for role, row in roles.items():
        if row is not None and (role != "Quantised" or row is not table.tuned):
            yield _headline(role, row, table.leading, by_target[row.target])


def _headline(role: str, row: Row, leading: Column, evaluation: Evaluation) -> Headline:
    value = row.values[leading.key]
    if leading.key != "exact_match" or value is None or not evaluation.answers:
        return Headline(role, row.target, value, None, None)
    hits = sum(answer.exact for answer in evaluation.answers)
    return Headline(role, row.target, value, hits, interval(hits, len(evaluation.answers)))


def interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson 1927): holds for few rows and at 0 and 1.

    Law: it contains `hits / of` and stays within 0 and 1.
    """
    z, share = NormalDist().inv_cdf(0.975), hits / of
    scale = 1 + z * z / of
    middle = (share + z * z / (2 * of)) / scale
    spread = z / scale * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, min(share, middle - spread)), min(1.0, max(share, middle + spread))
