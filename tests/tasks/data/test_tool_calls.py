"""Tool calls read out of an answer, and compared with the reference's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import tool_calls, tool_text
from tasks.data.rows import Message, ToolCall

names = st.sampled_from(["look", "find", "pay"])
arguments = st.dictionaries(
    st.sampled_from("abc"), st.integers(-(2**63), 2**63) | st.text("xyz <>{}", max_size=6), max_size=3
)
calls = st.lists(st.tuples(names, arguments), max_size=4)


def written(made: list[tuple[str, dict[str, Any]]], words: str = "") -> str:
    """As the project itself writes a turn."""
    turn = Message(
        role="assistant", content=words or "-", tool_calls=tuple(ToolCall(name=n, arguments=a) for n, a in made)
    )
    return tool_text.as_text([turn], [])[-1]["content"]


@given(calls, st.randoms(use_true_random=False))
def test_the_order_of_calls_is_free_and_words_beside_them_do_not_count(made: Any, chance: Any) -> None:
    shuffled = list(made)
    chance.shuffle(shuffled)
    assert tool_calls.f1(written(shuffled, "Let me see."), written(made)) == 1
    assert len(tool_calls.read(written(made))) == len(made)


@given(calls, calls)
def test_f1_is_symmetric_and_bounded(left: Any, right: Any) -> None:
    value = tool_calls.f1(written(left), written(right))
    assert value == tool_calls.f1(written(right), written(left))
    assert 0 <= value <= 1
    same = sorted(json.dumps(call, sort_keys=True) for call in left) == sorted(
        json.dumps(c, sort_keys=True) for c in right
    )
    assert (value == 1) == same


LOOK = written([("look", {"at": 1})])


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (LOOK, 1),
        (LOOK.replace("</tool_call>", ""), 1),
        ('{"name": "look", "arguments": {"at": 1.0}}', 1),
        ('[{"name": "look", "parameters": {"at": 1}}]', 1),
        ('{"type": "function", "function": {"name": "look", "arguments": "{\\"at\\": 1}"}}', 1),
        (LOOK + LOOK, 2 / 3),
        (LOOK + '<tool_call>{"name": "look", "argu</tool_call>', 2 / 3),
        (LOOK.replace("1", '"1"'), 0),
        (LOOK.replace("look", "Look"), 0),
        ("look(at=1)", 0),
        ("", 0),
    ],
)
def test_a_call_counts_if_name_and_arguments_are_equal(answer: str, value: float) -> None:
    assert tool_calls.f1(answer, LOOK) == pytest.approx(value)


def test_no_call_is_right_where_none_was_wanted() -> None:
    assert tool_calls.f1("It is 4.", "Four.") == 1
    assert tool_calls.f1(LOOK, "Four.") == 0
    assert tool_calls.f1('{"answer": 4}', '{"answer": 5}') == 1
    broken = "<tool_call>{</tool_call>"
    assert tool_calls.f1(broken, "<tool_call>[</tool_call>") == 0
    assert tool_calls.f1(broken, broken) == 1
