"""Every target against the base, as one plain value: `comparison.json`, shared by page, terminal and Prefect UI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from tasks.core.errors import IntegrityError
from tasks.core.verdict import Verdict
from tasks.data import slices
from tasks.data.report import rulings
from tasks.data.report.evaluations import Evaluation
from tasks.data.report.units import Number, Unit
from tasks.data.report.values import Value, complaint

FILE = "comparison.json"
TUNED = ("merged", "adapter")


class Column(Value):
    """`better` is None where neither direction is: such a column has no best value."""

    key: str
    label: str
    unit: Unit = ""
    better: Literal["higher", "lower"] | None = None


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


METRICS = {
    name: Column(key=name, label=label, unit="share", better="higher")
    for name, label in {
        "exact_match": "Exact match", "accuracy": "Accuracy", "macro_f1": "Macro-F1", "token_f1": "Token F1",
        "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF",
        "bertscore": "BERTScore", "json_valid": "Valid JSON", "json_fields": "JSON fields", "function_call": "Tool calls",
    }.items()
}  # fmt: skip
QUALITY = {
    "loss": Column(key="loss", label="Loss", better="lower"),
    "perplexity": Column(key="perplexity", label="Perplexity", better="lower"),
}
KNOWN = {
    "loss_known": Column(key="loss_known", label="Loss, known rows", better="lower"),
    "loss_new": Column(key="loss_new", label="Loss, new rows", better="lower"),
}
"""Where a version is continued: what was forgotten, and what was learned."""
WORST = "worst_slice"
"""Mean of the leading metric on the part of the test rows that fares worst, of those that tasks/data/slices.py makes."""
SUITE = "suite_"
"""Before a suite's name: the share of its items that passed."""
COST = {
    "size_bytes": Column(key="size_bytes", label="Size", unit="bytes", better="lower"),
    "load_seconds": Column(key="load_seconds", label="Load", unit="s", better="lower"),
    "generate_seconds": Column(key="generate_seconds", label="Generation", unit="s", better="lower"),
    "tokens_per_second": Column(key="tokens_per_second", label="Tokens/s", unit="tokens/s", better="higher"),
    "peak_memory_bytes": Column(key="peak_memory_bytes", label="Peak memory", unit="bytes", better="lower"),
}


def compare(evaluations: Sequence[Evaluation], verdicts: Sequence[Verdict] = ()) -> Comparison:
    """The table of the targets in the order given; the first is what the others are compared with.

    An adapter serves nobody without its base, so its size is that of both.
    """
    columns = (
        *_metric_columns(evaluations),
        *_part_columns(evaluations),
        *QUALITY.values(),
        *_known_columns(evaluations),
        *COST.values(),
    )
    leading = columns[0].key
    values = [_values(evaluation, columns, leading) for evaluation in evaluations]
    for evaluation, own in zip(evaluations, values, strict=True):
        if evaluation.target == "adapter":
            own["size_bytes"] = _sum(own["size_bytes"], values[0]["size_bytes"])
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


def _note(evaluation: Evaluation, verdict: Verdict | None) -> str | None:
    if verdict is None or verdict.passed or not verdict.made:
        return evaluation.measured.note
    return "; ".join([*filter(None, [evaluation.measured.note]), f"refused: {rulings.broken(verdict)}"])


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


def quality(comparison: Comparison) -> dict[str, dict[str, Number]]:
    """How good each target is, as `dvc metrics` reads it: what was not made or measured is left out."""
    return {
        row.target: {key: value for key, value in row.values.items() if value is not None and key not in COST}
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
