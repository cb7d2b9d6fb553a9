"""How many operations a training step needs at the least, whoever computes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measuring.lessons import Shape
from benchmarks.peers.lesson import IGNORED, Lesson, Row


def of_lesson(model: Shape, lesson: Lesson) -> float:
    """Floating-point operations of all its steps, a multiplication and an addition counted as two.

    A frozen weight meets each token twice, forward and for the gradient of its input: 4N, where full training needs 6N.
    The two small matrices beside it meet it three times. The head meets labelled tokens only. Attention is causal:
    token t sees t + 1, by two products, which are four more in the backward pass.
    Left out: everything that is no product (norms, activations, the softmax, the optimizer).
    """
    tokens = sum(len(row.ids) for row in lesson.rows)
    frozen = 4 * tokens * sum(out * into for out, into in model.layers.values())
    adapters = 6 * tokens * lesson.rank * sum(out + into for out, into in model.layers.values())
    head = 4 * labelled(lesson.rows) * model.hidden * model.vocabulary
    attention = 6 * model.blocks * model.hidden * sum(_pairs(row) for row in lesson.rows)
    return float(frozen + adapters + head + attention)


def labelled(rows: Iterable[Row]) -> int:
    """Tokens that are predicted: the first of a row never is."""
    return sum(label != IGNORED for row in rows for label in row.labels[1:])


def _pairs(row: Row) -> int:
    return len(row.ids) * (len(row.ids) + 1)


def mean_shape(lesson: Lesson) -> Sequence[int]:
    """Tokens and labelled tokens of a mean step."""
    tokens = sum(len(row.ids) for row in lesson.rows)
    return tokens // lesson.steps, max(1, labelled(lesson.rows) // lesson.steps)
