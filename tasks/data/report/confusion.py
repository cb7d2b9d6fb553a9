"""What a classifier took for what: shown where its labels were measured as such."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.data import classes
from tasks.data.report.evaluations import Evaluation

MEASURES = frozenset({"accuracy", "macro_f1"})
MOST = 12
"""Labels shown; the rarer ones are counted together."""


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: rows of label i that were answered as label j."""

    target: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def of(evaluation: Evaluation) -> Confusion | None:
    """None where the rows are no classification."""
    if not MEASURES & evaluation.measured.metrics.keys() or not evaluation.answers:
        return None
    answers = [answer.prediction for answer in evaluation.answers]
    references = [answer.reference for answer in evaluation.answers]
    return Confusion(evaluation.target, *classes.confusion(answers, references, MOST))
