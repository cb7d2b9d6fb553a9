"""Metrics of a format against the merged model's, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.core.manifest import Manifest
from tasks.core.sections import QuantizeParams
from tasks.core.verdict import Ruling
from tasks.data import verdicts
from tasks.data.report import rulings
from tasks.data.report.evaluations import Answer, Evaluation, Measured

EMPTY = Manifest(step="evaluate", inputs={}, params={}, facts={}, files={})


def evaluation(target: str, **metrics: list[float | None]) -> Evaluation:
    count = len(next(iter(metrics.values())))
    answers: list[dict[str, Any]] = [
        {"id": str(n), "prompt": [{"role": "user", "content": "?"}], "reference": "r", "prediction": "p",
         "metrics": {name: values[n] for name, values in metrics.items()}}
        for n in range(count)
    ]  # fmt: skip
    means = {name: sum(v or 0 for v in values) for name, values in metrics.items()}
    measured = Measured.model_validate({"target": target, "rows": count, "metrics": means})
    return Evaluation(EMPTY, measured, tuple(map(Answer.model_validate, answers)))


def given(merged: Evaluation, format: Evaluation) -> verdicts.Verdict:
    budget = dict.fromkeys(("perplexity", "kl", "kl_p99", "agreement")) | {"drop": 0.1}
    params = QuantizeParams.model_validate(
        {"formats": ["nf4"], "calibration": 1, "held_out": 1, "second_try": False, "budget": budget}
    )
    (verdict,) = verdicts.of_formats([merged, format], params)
    return verdict


def test_rows_without_a_value_are_left_out_of_both() -> None:
    merged = evaluation("merged", json_fields=[1, None, 0.5, 1], json_valid=[None] * 4)
    verdict = given(merged, evaluation("nf4", json_fields=[1, None, 0.5, 0.6], json_valid=[None] * 4))
    (ruling,) = verdict.rulings
    assert (ruling.rule, ruling.measured) == ("json_fields", pytest.approx(-0.4 / 3))
    assert not verdict.passed


def test_a_format_that_lost_its_values_is_refused() -> None:
    verdict = given(evaluation("merged", bleu=[0.5, 0.5]), evaluation("nf4", bleu=[None, None]))
    assert [(ruling.measured, ruling.passed) for ruling in verdict.rulings] == [(None, False)]


@pytest.mark.parametrize(("count", "end"), [(1, "at least 0.000"), (4, "at least 0.000"), (7, "; and 3 more")])
def test_what_breaks_many_rules_names_the_first_and_counts_the_rest(count: int, end: str) -> None:
    broken = [Ruling(rule=f"rule {number}", measured=-1.0, direction="at least", needed=0.0) for number in range(count)]
    told = rulings.first(broken)
    assert told.startswith("rule 0 −1.000, needed at least 0.000") and told.endswith(end)
    assert told.count("needed") == min(count, 4)
