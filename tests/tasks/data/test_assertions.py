"""Checks on an answer: what each kind takes, what is refused when it is read, and that none runs for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.errors import DataError
from tasks.data.assertions import Check

texts = st.text(st.characters(codec="utf-8"), max_size=20)
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def passes(answer: str, **check: Any) -> bool:
    return Check.model_validate(check).passes(answer)


@given(texts, st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), st.booleans())
def test_contains_and_not_contains_are_opposites(answer: str, part: str, ignore: bool) -> None:
    assert passes(answer, contains=part, ignore_case=ignore) != passes(answer, not_contains=part, ignore_case=ignore)


@given(texts)
def test_an_answer_equals_itself_and_is_as_long_as_it_is(answer: str) -> None:
    assert passes(f" {answer}\n", equals=answer)
    assert passes(answer, max_length=len(answer.strip()))
    assert not answer.strip() or not passes(answer, max_length=len(answer.strip()) - 1)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"contains": "Paris"}, "It is Paris.", "it is paris."),
        ({"contains": "paris", "ignore_case": True}, "PARIS", "Rome"),
        ({"equals": "Yes", "ignore_case": True}, " yes\n", "yes."),
        ({"regex": r"^\d+$"}, "42", "42 apples"),
        ({"json_schema": OBJECT}, '{"a": 1}', '{"a": "1"}'),
        ({"json_schema": OBJECT}, ' {"a": 1}\n', 'Here: {"a": 1}'),
        ({"json_schema": {"type": "string", "pattern": "^a+$"}}, '"aa"', '"b"'),
        ({"json_schema": {"$defs": {"n": {"const": 1}}, "$ref": "#/$defs/n"}}, "1", "2"),
    ],
)
def test_each_kind(check: dict[str, Any], right: str, wrong: str) -> None:
    assert passes(right, **check)
    assert not passes(wrong, **check)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({}, "expected one of contains, .* found none"),
        ({"contains": "a", "equals": "b"}, "found contains, equals"),
        ({"contain": "a"}, "Extra inputs"),
        ({"contains": ""}, "at least 1 character"),
        ({"regex": "("}, "is no regular expression: missing \\)"),
        ({"regex": "a" * 1001}, "at most 1000 characters"),
        ({"json_schema": {"type": "thing"}}, "no JSON schema"),
        ({"json_schema": {"properties": {"a": {"pattern": "("}}}}, "is not a 'regex'"),
        ({"json_schema": {"$ref": "http://localhost:1/schema"}}, "has to be whole"),
        ({"json_schema": {"patternProperties": {"^a": {}}}}, "not bounded in time"),
        ({"max_length": -1}, "greater than or equal to 0"),
    ],
)
def test_a_check_that_cannot_work_is_refused_when_it_is_read(check: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Check.model_validate(check)


@pytest.mark.parametrize("check", [{"regex": "^(a|a|aa)+$"}, {"json_schema": {"pattern": "^(a|a|aa)+$"}}])
def test_a_pattern_that_would_run_for_ever_is_an_error(check: dict[str, Any]) -> None:
    answer = "a" * 5000 + "b"
    with pytest.raises(DataError, match=r"took more than 1 s on an answer of .* characters: write it without nested"):
        passes(answer if "regex" in check else f'"{answer}"', **check)


def test_a_reference_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(DataError, match="refers to .*which it does not hold"):
        passes("1", json_schema={"$ref": "#/$defs/missing"})
