"""`index.html`: one page that loads nothing from anywhere and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.core.verdict import Verdict
from tasks.data import slices
from tasks.data.report import behaviour, charts, confusion, difference, rulings, template
from tasks.data.report.charts import Dot
from tasks.data.report.comparison import Comparison, best
from tasks.data.report.difference import Segment
from tasks.data.report.evaluations import Evaluation
from tasks.data.report.headline import headlines
from tasks.data.report.lineage import Lineage
from tasks.data.report.samples import Sample
from tasks.data.report.training import History
from tasks.data.slices import Slice

WORST = 8
"""Parts of the test rows on the page; slices.json has them all."""
SHOWN = 4000
"""Characters of one text on the page; samples.json has the whole."""


@dataclass(frozen=True)
class ShownAnswer:
    """What several targets answered alike. No segments: it is the reference itself."""

    targets: tuple[str, ...]
    exact: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class ShownSample:
    sample: Sample
    answers: tuple[ShownAnswer, ...]


def render(
    table: Comparison,
    lineage: Lineage,
    history: History,
    samples: Sequence[Sample],
    evaluations: Sequence[Evaluation],
    verdicts: Sequence[Verdict],
    parts: Sequence[Slice],
) -> str:
    """`parts`: those of the test rows, as the tuned model answered them."""
    dots = _dots(table)
    by_target = {evaluation.target: evaluation for evaluation in evaluations if evaluation.measured.made}
    base, tuned = by_target[table.base.target], by_target[table.tuned.target]
    lost = behaviour.lost(base, tuned)
    return template.render(
        "page.html.j2",
        table=table,
        lineage=lineage,
        history=history,
        headlines=tuple(headlines(table, evaluations)),
        verdicts=[verdict for verdict in verdicts if verdict.format in {row.target for row in table.rows if row.made}],
        figure=rulings.figure,
        targets=tuple(by_target),
        behaviour=behaviour.groups(tuple(by_target.values())),
        lost=lost[: behaviour.SHOWN],
        lost_count=len(lost),
        worst=slices.worst(parts, table.leading.key, WORST) if table.leading.better else (),
        confusion=confusion.of(tuned),
        samples=[_shown(sample) for sample in samples],
        best=_marks(table),
        dots=dots,
        loss_chart=_drawn(charts.loss_curves(history)) if history.train else None,
        rank_chart=_drawn(charts.effective_ranks(history.ranks)) if history.ranks else None,
        size_chart=_drawn(charts.quality_against_size(dots, table.leading.label, table.leading.unit)) if dots else None,
        clip=_clip,
    )


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704  matplotlib's own elements: it escapes the names among them


def _marks(table: Comparison) -> set[tuple[str, str]]:
    """Target and column of every best value."""
    return {
        (row.target, column.key)
        for column in table.columns
        if (mark := best(table, column)) is not None
        for row in table.rows
        if row.values[column.key] == mark
    }


def _dots(table: Comparison) -> tuple[Dot, ...]:
    return tuple(
        Dot(row.target, size, quality)
        for row in table.rows
        if (size := row.values["size_bytes"]) and (quality := row.values[table.leading.key]) is not None
    )


def _shown(sample: Sample) -> ShownSample:
    """Equal answers once, under the names of all who gave them."""
    alike: dict[tuple[str, bool], list[str]] = {}
    for given in sample.answers:
        alike.setdefault((given.prediction, given.exact), []).append(given.target)
    return ShownSample(
        sample,
        tuple(
            ShownAnswer(tuple(targets), exact, _segments(sample.reference, prediction))
            for (prediction, exact), targets in alike.items()
        ),
    )


def _segments(reference: str, prediction: str) -> tuple[Segment, ...]:
    """Marked where the answer has enough in common with its reference for marks to help."""
    if prediction == reference:
        return ()
    answer = _clip(prediction)
    found = difference.segments(_clip(reference), answer)
    return found if difference.alike(found) else (Segment("same", answer),)


def _clip(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}\n… {len(text) - SHOWN:,} more characters"
