"""Turns from whom, with what value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tasks.data.formats.spellings import CALL, to_row, turns, unfit


def test_calls_made_at_once_are_one_turn() -> None:
    tools = json.dumps([{"name": "f", "description": "d", "parameters": {}}])
    together = turns(
        ("human", "q"), ("gpt", "Let me see."), ("function_call", f"[{CALL}, {CALL}]"), ("observation", "1"),
        ("observation", "2"), ("gpt", "a"), system="s", tools=tools,
    )  # fmt: skip
    row = to_row(together)
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert row.messages[2].content == "Let me see."
    assert [(call.name, call.arguments) for call in row.messages[2].tool_calls] == [("f", {"x": 1})] * 2
    assert row.tools == ({"type": "function", "function": json.loads(tools)[0]},)
    apart = {**together, "conversations": list(together["conversations"])}
    apart["conversations"][2:3] = [{"from": "function_call", "value": CALL}] * 2
    assert to_row(apart) == row
    assert to_row({**together, "tools": json.loads(tools)}) == row
    assert to_row(turns(("user", "q"), ("assistant", "a"), tools="")).tools == ()


def test_images_stand_where_the_placeholders_are() -> None:
    value = turns(
        ("human", "<image>What?\n<image>"), ("gpt", "It's <image>."), images=["1.jpg", {"path": "2"}, "3.jpg"]
    )
    row = to_row(value)
    assert row.images == ("1.jpg", "2", "3.jpg")
    assert row.messages[0].text == "What?\n"
    assert to_row(turns(("human", "<image>"), ("gpt", "a"), image="1.jpg")).images == ("1.jpg",)
    words = to_row(turns(("human", "What does <image> mean?"), ("gpt", "a"), images=[]))
    assert words.messages[0].content == "What does <image> mean?"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (turns(), "no conversation"),
        (turns(("human", "q")), "no answer"),
        (turns(("human", "q"), ("gpt", "a"), ("human", "q")), "no answer"),
        (turns(("gpt", "a"), ("gpt", "a")), "role order"),
        (turns(("human", "q"), ("human", "q"), ("gpt", "a")), "role order"),
        (turns(("system", "s"), ("human", "q"), ("gpt", "a"), system="t"), "role order"),
        (turns(("human", "q"), ("observation", "r"), ("gpt", "a")), "role order"),
        (turns(("human", "q"), ("function_call", CALL), ("gpt", "a")), "role order"),
        (turns(("robot", "q"), ("gpt", "a")), "unknown role"),
        (turns(("human", "q"), ("function_call", "f(1)"), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", "[]"), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", '{"arguments": {}}'), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", '{"name": "f", "arguments": [1]}'), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("function_call", '{"name": "f", "name": "g"}'), ("gpt", "a")), "tool call"),
        (turns(("human", "q"), ("gpt", "a"), tools="[{}]"), "tools"),
        (turns(("human", "q"), ("gpt", "a"), tools="none"), "wrong type"),
        (turns(("human", "q"), ("gpt", "a"), tools={}), "wrong type"),
        (turns(("human", "<image>"), ("gpt", "a"), images=["1", "2"]), "image"),
        (turns(("human", "<image><image>"), ("gpt", "a"), images=["1"]), "image"),
        (turns(("human", "q"), ("gpt", "a"), images=["1"]), "image"),
        (turns(("human", "<image>"), ("gpt", "a"), images=[{"bytes": "xx", "path": None}]), "image"),
        (turns(("human", "<image>"), ("gpt", "a"), images=["data:image/png;base64,xx"]), "image"),
        (turns(("human", "<video>"), ("gpt", "a"), videos=["1.mp4"]), "image"),
        ({"conversations": [7]}, "wrong type"),
        ({"conversations": [{"from": ["human"], "value": "q"}]}, "unknown role"),
        ({"conversations": [{"from": "human", "value": 7}]}, "wrong type"),
        ({"conversations": {"a": 1}}, "wrong type"),
    ],
)
def test_sharegpt_rows_that_are_unfit(value: dict[str, Any], kind: str) -> None:
    assert unfit(value)[0] == kind
