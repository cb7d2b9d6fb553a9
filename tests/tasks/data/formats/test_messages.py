"""OpenAI's messages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.data.formats.spellings import A, Q, called, function, messages, to_row, unfit


@pytest.mark.parametrize("call", [function(), function(arguments={"x": 1}), {"name": "f", "arguments": {"x": 1}}])
def test_a_call_s_spelling_makes_no_difference(call: dict[str, Any]) -> None:
    result = {"role": "tool", "content": "r", "name": "f"}
    row = to_row(messages({"role": "developer", "content": "s"}, Q, called(call), result, A))
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].tool_calls[0].arguments == {"x": 1}
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    assert to_row(messages({"role": "system", "content": "s"}, Q, old, {**result, "role": "function"}, A)) == row


@pytest.mark.parametrize("nothing", [None, "", " ", {}, "{}"])
def test_a_call_may_have_no_arguments(nothing: Any) -> None:
    (call,) = to_row(messages(Q, called(function(arguments=nothing)))).messages[1].tool_calls
    assert call.arguments == {}


def test_results_stand_in_the_order_of_the_calls() -> None:
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("c", "a", "b")]
    row = to_row(messages(Q, called(function("a"), function("b"), function("c")), *results, A))
    assert [message.content for message in row.messages[2:5]] == ["a", "b", "c"]
    lost = unfit(messages(Q, called(function("a")), {"role": "tool", "tool_call_id": "z", "content": "r"}, A))
    assert lost[0] == "tool call"


def test_null_is_absent() -> None:
    """Tables give every message every key."""
    keys = ("tool_calls", "function_call", "tool_call_id", "name", "refusal", "audio", "weight", "reasoning_content")
    null = dict.fromkeys(keys)
    row = to_row(messages({**null, **Q}, {**null, **A}, tools=None, images=None, id=None, weight=None, source=None))
    assert row == to_row(messages(Q, A))


def test_content_parts() -> None:
    content = [
        {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x/1.jpg", "detail": "low"}},
        {"type": "input_image", "image_url": "2.jpg"}, {"type": "input_text", "text": "b"},
        {"type": "image", "image": "3.jpg", "text": None}, {"type": "image"},
    ]  # fmt: skip
    row = to_row(messages({"role": "user", "content": content}, A, images=["4.jpg"]))
    assert row.images == ("https://x/1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert row.messages[0].text == "ab"
    assert unfit(messages({"role": "user", "content": content}, A))[0] == "image"
    words = [{"type": "text", "text": "q"}, " and ", {"type": "text", "text": "r"}]
    assert to_row(messages({"role": "user", "content": words}, A)).messages[0].content == "q and r"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (messages(), "no conversation"),
        (messages(Q), "no answer"),
        (messages(A), "role order"),
        (messages(Q, A, A), "role order"),
        (messages({"role": "system", "content": "s"}), "no answer"),
        (messages({"role": "system", "content": "s"}, {"role": "developer", "content": "t"}, Q, A), "role order"),
        (messages(Q, {"role": "assistant"}), "blank turn"),
        (messages(Q, {"role": "assistant", "content": None}), "blank turn"),
        (messages(Q, {"role": "assistant", "content": []}), "blank turn"),
        (messages(Q, {"role": "assistant", "content": " \u3000\n"}), "blank turn"),
        (messages({"role": "user", "content": 7}, A), "wrong type"),
        (messages({"role": "user", "content": {"text": "q"}}, A), "wrong type"),
        (messages({"role": "user", "content": [{"type": "input_audio"}]}, A), "image"),
        (messages({"role": "user", "content": [7]}, A), "wrong type"),
        (messages({"role": "user", "content": [{"type": "text", "text": 7}]}, A), "wrong type"),
        (messages({"content": "q"}, A), "unknown role"),
        (messages({"role": "narrator", "content": "q"}, A), "unknown role"),
        (messages({"role": {"a": 1}, "content": "q"}, A), "unknown role"),
        (messages("q", A), "wrong type"),
        (messages({**Q, "tool_calls": [function()]}, A), "tool call"),
        (messages(Q, called(function(arguments="[1]")), A), "tool call"),
        (messages(Q, called(function(arguments='{"a": NaN}')), A), "tool call"),
        (messages(Q, called({"function": {"name": " "}}), A), "tool call"),
        (messages(Q, called({**function(), "id": 7}), A), "tool call"),
        (messages(Q, {**A, "refusal": "I can't."}), "not learnable"),
        (messages(Q, {**A, "reasoning_content": "hm"}), "not learnable"),
        (messages(Q, {**A, "weight": 0}, Q, A), "not learnable"),
        (messages(Q, A, tools=[7]), "tools"),
        ({"messages": "q"}, "wrong type"),
        ({"messages": 7}, "wrong type"),
        (messages(Q, {"role": "assistant", "content": "a", "tool_calls": 7}), "wrong type"),
    ],
)
def test_messages_that_are_unfit(value: dict[str, Any], kind: str) -> None:
    assert unfit(value)[0] == kind
