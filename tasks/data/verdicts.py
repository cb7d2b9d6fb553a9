"""The verdicts of a run: made from its evaluations, and read back by whoever acts on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.core.errors import DataError, IntegrityError
from tasks.core.sections import Budget, QuantizeParams
from tasks.core.verdict import Ruling, Verdict, of_likeness
from tasks.data import paired
from tasks.data.report.evaluations import Evaluation
from tasks.data.report.values import complaint

FILE = "verdicts.json"
_VERDICTS = TypeAdapter(tuple[Verdict, ...])


def of_formats(found: Sequence[Evaluation], params: QuantizeParams) -> tuple[Verdict, ...]:
    """One for each format of the params, in their order. DataError: one was not evaluated."""
    by_target = {evaluation.target: evaluation for evaluation in found}
    for wanted in ("merged", *params.formats):
        if wanted not in by_target:
            raise DataError(
                f"{wanted} has no evaluation on the present data, so formats can't be judged: run dvc repro judge"
            )
    return tuple(_verdict(by_target[format], by_target["merged"], params.budget) for format in params.formats)


def _verdict(format: Evaluation, merged: Evaluation, budget: Budget) -> Verdict:
    measured = format.measured
    if not measured.made:
        return Verdict(format=format.target, note=measured.note)
    likeness = of_likeness(measured.likeness, budget)
    return Verdict(
        format=format.target, note=measured.note, rulings=(*likeness, *_metrics(format, merged, budget)), made=True
    )


def _metrics(format: Evaluation, merged: Evaluation, budget: Budget) -> Iterator[Ruling]:
    """Paired row by row: both answered the same test rows. A metric that had nothing to judge in any of them asks nothing."""
    if budget.drop is None:
        return
    theirs = {answer.id: answer for answer in merged.answers}
    for name in format.measured.metrics:
        pairs = [(theirs[answer.id].metrics[name], answer.metrics[name]) for answer in format.answers]
        if pairs and all(before is None for before, _ in pairs):
            continue
        known = [(before, after) for before, after in pairs if before is not None and after is not None]
        mean, low, high = paired.difference(*zip(*known, strict=True)) if known else (None, None, None)
        yield Ruling(rule=name, measured=mean, low=low, high=high, direction="at least", needed=-budget.drop)


def read(folder: Path) -> tuple[Verdict, ...]:
    """IntegrityError: the folder holds none."""
    try:
        return _VERDICTS.validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{folder} has no {FILE}. Run the stage that makes it: dvc repro judge") from None
    except ValidationError as error:
        raise IntegrityError(
            f"{folder / FILE} holds no verdicts: {complaint(error)}. Run the stage again: dvc repro --force judge"
        ) from None
