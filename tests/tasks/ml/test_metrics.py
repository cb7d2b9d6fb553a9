"""Metrics: laws, and the published implementations behind them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import ParamsError
from tasks.ml import metrics
from tasks.ml.metrics.token_f1.token_f1 import f1

texts = st.text(st.characters(codec="utf-8"), max_size=30)


def test_every_metric_is_1_for_equal_answers_and_0_for_foreign_ones() -> None:
    same = ['{"a": "one two"}', "three four five six", "x y z"]
    other = ["QQQQ WWWW", "RRRR TTTT", "ZZZZ"]
    assert metrics.known() == ["chrf", "exact_match", "rouge_l", "token_f1"]
    for name in metrics.known():
        assert metrics.compute(name, same, same) == pytest.approx([1, 1, 1]), name
        assert metrics.compute(name, other, same) == pytest.approx([0, 0, 0]), name


def test_one_value_a_row_in_order() -> None:
    assert metrics.compute("exact_match", ["a", " b\n", "c"], ["a", "b", "d"]) == [1, 1, 0]
    assert metrics.compute("rouge_l", ["the cat sat", "dog"], ["the cat sat on it", "cat"]) == pytest.approx([0.75, 0])


@pytest.mark.parametrize("name", metrics.known())
def test_an_empty_answer_has_a_value(name: str) -> None:
    assert metrics.compute(name, ["", "a"], ["a", "a"]) == pytest.approx([0, 1])


@settings(max_examples=200)
@given(texts, texts)
def test_token_f1_is_symmetric_and_bounded(left: str, right: str) -> None:
    assert f1(left, right) == f1(right, left)
    assert 0 <= f1(left, right) <= 1
    assert f1(left, left) == 1


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(ParamsError, match="unknown metric 'bleu'; known: chrf, exact_match"):
        metrics.check(["chrf", "bleu"])
