"""Which answers are JSON, and which of the reference's fields they have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import json_answers

leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="utf-8"), max_size=5)
values = st.recursive(
    leaves | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=9
)
objects = st.dictionaries(words, values, min_size=1, max_size=4)


@given(objects)
def test_an_object_has_its_own_fields_however_it_is_written(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert json_answers.fields(json.dumps(turned, indent=2), json.dumps(value, ensure_ascii=False)) == 1


@given(objects, values)
def test_the_share_is_one_and_a_field_more_costs_nothing(value: dict[str, Any], other: Any) -> None:
    share = json_answers.fields(json.dumps(other), json.dumps(value))
    assert share is not None and 0 <= share <= 1
    assert json_answers.fields(json.dumps({**value, "more than 5": other}), json.dumps(value)) == 1


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ('{"a": 1, "b": {"c": [1, 2], "d": "x"}}', 1),
        ('{"a": 1.0, "b": {"d": "x", "c": [1, 2]}, "e": 5}', 1),
        ('{"a": true, "b": {"c": [1, 2], "d": "x"}}', 2 / 3),
        ('{"a": "1", "b": {"c": [2, 1], "d": "x"}}', 1 / 3),
        ('{"a": 1, "b.c": [1, 2], "b": "x"}', 1 / 3),
        ("[1]", 0),
        ('```json\n{"a": 1}\n```', 0),
        ("", 0),
    ],
)
def test_fields_are_compared_by_path_and_type(answer: str, share: float) -> None:
    wanted = '{"a": 1, "b": {"c": [1, 2], "d": "x"}}'
    assert json_answers.fields(answer, wanted) == pytest.approx(share)


@pytest.mark.parametrize("reference", ["words", "[1]", "{}", "7", "null"])
def test_a_reference_without_fields_gives_no_value(reference: str) -> None:
    assert json_answers.fields("{}", reference) is None
    assert json_answers.valid("{", reference) == (None if reference == "words" else 0)


@pytest.mark.parametrize("text", ["NaN", '{"a": 1, "a": 2}', "[" * 5000, '"\\ud800"', "1 2", "{'a': 1}"])
def test_what_other_programs_refuse_is_not_valid(text: str) -> None:
    assert json_answers.valid(text, "{}") == 0


def test_the_mean_leaves_out_what_has_no_value() -> None:
    assert json_answers.mean([1, None, 0]) == 0.5
    assert json_answers.mean([None]) is None
