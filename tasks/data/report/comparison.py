"""Every target against the base, as one plain value: `comparison.json`, shared by page, terminal and Prefect UI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import ValidationError, model_validator

from tasks.core.errors import IntegrityError
from tasks.core.verdict import Verdict
from tasks.data import slices
from tasks.data.report import rulings
from tasks.data.report.columns import COST, EFFICIENCY, KNOWN, METRICS, QUALITY, SUITE, TRAINED, WORST, Column
from tasks.data.report.evaluations import Evaluation
from tasks.data.report.units import Number
from tasks.data.report.values import Value, complaint

FILE = "comparison.json"
TUNED = ("merged", "adapter")


class Row(Value):
    """One target. Law: `difference[k] == values[k] - base.values[k]`, or None where either is missing.

    One that was not `made` has no values; `note` says why, or what else there is to know of a target. `passed` is the
    verdict on a format.
    """

    target: str
    made: bool = True
    passed: bool | None = None
    note: str | None = None
    values: dict[str, Number | None]
    difference: dict[str, Number | None]


class Comparison(Value):
    """The first row is the base, the first column the one that leads; `tested` counts the test rows."""

    tested: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        keys = {column.key for column in self.columns}
        if not (keys and self.rows and all(row.values.keys() == keys == row.difference.keys() for row in self.rows)):
            raise ValueError("there is a row, and each has one value and one difference for every column")
        return self

    @property
    def base(self) -> Row:
        return self.rows[0]

    @property
    def leading(self) -> Column:
        return self.columns[0]

    @property
    def tuned(self) -> Row:
        """The merged model; the adapter, or the last target, where nothing was merged."""
        by_target = {row.target: row for row in self.rows if row.made}
        return next((by_target[target] for target in TUNED if target in by_target), [*by_target.values()][-1])

    @property
    def quantized(self) -> Row | None:
        """The smallest format within its budget: the one that a deployment would choose for its size."""
        formats = [row for row in self.rows[1:] if row.made and row.passed is not False and row.target not in TUNED]
        sized = {row.target: size for row in formats if (size := row.values.get("size_bytes")) is not None}
        return min(formats, key=lambda row: (sized.get(row.target, float("inf")), row.target), default=None)

    @property
    def quality(self) -> Comparison:
        """How good each target is: the columns that equal inputs make equal."""
        return self._part([column for column in self.columns if column.key not in EFFICIENCY])

    @property
    def efficiency(self) -> Comparison | None:
        """What each target costs, where that was measured."""
        kept = [column for column in self.columns if column.key in EFFICIENCY]
        return self._part(kept) if kept else None

    def _part(self, columns: Sequence[Column]) -> Comparison:
        keys = [column.key for column in columns]
        rows = [
            row.model_copy(update={
                "values": {key: row.values[key] for key in keys},
                "difference": {key: row.difference[key] for key in keys},
            })
            for row in self.rows
        ]  # fmt: skip
        return Comparison(tested=self.tested, columns=tuple(columns), rows=tuple(rows))


def compare(
    evaluations: Sequence[Evaluation],
    verdicts: Sequence[Verdict] = (),
    trained: Mapping[str, Number | None] | None = None,
) -> Comparison:
    """The table of the targets in the order given; the first is what the others are compared with. `trained`: what the
    training took, by the keys of TRAINED.

    An adapter serves nobody without its base, so its size is that of both.
    """
    columns = (
        *_metric_columns(evaluations),
        *_part_columns(evaluations),
        *QUALITY.values(),
        *_known_columns(evaluations),
        *COST.values(),
        *(TRAINED.values() if trained else ()),
    )
    leading = columns[0].key
    values = [_values(evaluation, columns, leading) for evaluation in evaluations]
    for evaluation, own in zip(evaluations, values, strict=True):
        if evaluation.target == "adapter":
            own["size_bytes"] = _sum(own["size_bytes"], values[0]["size_bytes"])
        if trained and evaluation.target == _learned(evaluations):
            own.update(trained)
    judged = {verdict.format: verdict for verdict in verdicts}
    rows = (
        Row(
            target=evaluation.target,
            made=evaluation.measured.made,
            passed=judged[evaluation.target].passed if evaluation.target in judged else None,
            note=_note(evaluation, judged.get(evaluation.target)),
            values=own,
            difference=_difference(own, values[0]),
        )
        for evaluation, own in zip(evaluations, values, strict=True)
    )
    return Comparison(tested=evaluations[0].measured.rows, columns=columns, rows=tuple(rows))


def _learned(evaluations: Sequence[Evaluation]) -> str | None:
    """The target that is what was trained: the adapter, or the merged model where that was not evaluated."""
    there = {evaluation.target for evaluation in evaluations if evaluation.measured.made}
    return next((target for target in reversed(TUNED) if target in there), None)


def _note(evaluation: Evaluation, verdict: Verdict | None) -> str | None:
    measured = evaluation.measured
    refused = None if verdict is None or verdict.passed or not verdict.made else f"refused: {rulings.broken(verdict)}"
    said = [measured.note, measured.judge.note if measured.judge else None, refused]
    return "; ".join(filter(None, said)) or None


def _metric_columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    """The known metrics first; which way a user's own points is not guessed at."""
    names = {name for evaluation in evaluations for name in evaluation.measured.metrics}
    known = [column for name, column in METRICS.items() if name in names]
    return known + [
        Column(key=name, label=name.rpartition(":")[2].replace("_", " ")) for name in sorted(names - METRICS.keys())
    ]


def _part_columns(evaluations: Sequence[Evaluation]) -> Iterator[Column]:
    """The worst part of the test rows by the leading metric, where it is known which way that points; and the suites."""
    leading = _leading(evaluations)
    if leading and leading.better and any(slices.lowest(each.judged, leading.key) is not None for each in evaluations):
        yield Column(key=WORST, label="Worst part", unit=leading.unit, better=leading.better)
    for name in dict.fromkeys(name for evaluation in evaluations for name in evaluation.measured.suites):
        yield Column(key=f"{SUITE}{name}", label=f"Suite {name}", unit="share", better="higher")


def _leading(evaluations: Sequence[Evaluation]) -> Column | None:
    return next(iter(_metric_columns(evaluations)), None)


def _known_columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    measured = [each.measured.model_dump(include={*KNOWN}) for each in evaluations]
    return [column for name, column in KNOWN.items() if any(values[name] is not None for values in measured)]


def _values(evaluation: Evaluation, columns: Sequence[Column], leading: str) -> dict[str, Number | None]:
    measured = evaluation.measured
    suites = {f"{SUITE}{name}": figures.passed for name, figures in measured.suites.items()}
    worst = {WORST: slices.lowest(evaluation.judged, leading)}
    every: dict[str, Number | None] = {
        **measured.metrics,
        **suites,
        **worst,
        **measured.model_dump(include={*QUALITY, *KNOWN, *COST}),
    }
    return {column.key: every.get(column.key) for column in columns}


def _sum(left: Number | None, right: Number | None) -> Number | None:
    return None if left is None or right is None else left + right


def _difference(own: dict[str, Number | None], base: dict[str, Number | None]) -> dict[str, Number | None]:
    return {key: None if value is None or (other := base[key]) is None else value - other for key, value in own.items()}


def best(comparison: Comparison, column: Column) -> Number | None:
    """The value to mark in a column; None where nothing is better or all targets are equal."""
    values = [value for row in comparison.rows if (value := row.values[column.key]) is not None]
    if column.better is None or len(set(values)) < 2:
        return None
    return max(values) if column.better == "higher" else min(values)


def figures(comparison: Comparison) -> dict[str, dict[str, Number]]:
    """Each target's, as `dvc metrics` reads them: what was not made or measured is left out."""
    return {
        row.target: {key: value for key, value in row.values.items() if value is not None}
        for row in comparison.rows
        if row.made
    }


def read_comparison(folder: Path) -> Comparison:
    """The comparison in a report's folder."""
    try:
        return Comparison.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{folder} has no {FILE}. Run the stage that makes it: dvc repro report") from None
    except ValidationError as error:
        raise IntegrityError(
            f"{folder / FILE} is not a comparison: {complaint(error)}. "
            "Run the stage again: dvc repro --force --single-item report"
        ) from None
