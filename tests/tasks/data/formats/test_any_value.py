"""Laws: any value is a row or unfit; one conversation is one row in every format."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tasks.data import formats
from tasks.data.formats import Unfit
from tasks.data.rows import Row
from tests.tasks.data.formats.spellings import (
    CALL,
    EXAMPLES,
    MAPPED,
    PARAMS,
    A,
    Q,
    called,
    function,
    messages,
    said,
    to_row,
    turns,
)

KEYS = st.sampled_from([
    "messages", "conversations", "role", "content", "from", "value", "instruction", "input", "output", "history", "system",
    "tools", "functions", "prompt", "completion", "question", "answer", "context", "topic", "level", "chosen", "rejected",
    "label", "id", "source", "weight", "tags", "tag", "images", "image", "videos", "tool_calls", "function_call", "function",
    "name", "arguments", "tool_call_id", "type", "text", "image_url", "url", "refusal", "lable",
])  # fmt: skip
leaves = (
    st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "function_call", "observation", "text", "image"])
    | st.sampled_from(["", " ", "q", "<image>", "[]", "{}", CALL, "7", "\x00", "\ud800"])
    | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
)  # fmt: skip
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)
RICH: list[dict[str, Any]] = [
    *EXAMPLES.values(),
    {
        "instruction": "q",
        "input": "i",
        "output": "a",
        "history": [["q", "a"]],
        "system": "s",
        "tags": ["t"],
        "weight": 2,
    },
    turns(
        ("human", "<image>"),
        ("function_call", CALL),
        ("observation", "r"),
        ("gpt", "a"),
        images=["1"],
        tools=[{"name": "f"}],
    ),
    messages(Q, called(function("a"), function("b")), {"role": "tool", "tool_call_id": "b", "content": "r"}, A, id=7),
    messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "1"}}]}, A, source="s"),
    {"prompt": [Q], "completion": [A], "tags": "t"},
]


@st.composite
def bent(draw: st.DrawFn) -> Any:
    """A right row with up to two places of it made anything, or gone."""
    value: Any = json.loads(json.dumps(draw(st.sampled_from(RICH))))
    for _ in range(draw(st.integers(0, 2))):
        node: Any = value
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(node[place], dict | list) and draw(st.booleans()):
                node = node[place]
                continue
            if draw(st.booleans()):
                node[place] = draw(anything)
            else:
                del node[place]
            break
    return value


@given(bent(), st.sampled_from(["auto", "auto", *EXAMPLES]))
def test_a_bent_row_is_a_row_or_unfit(value: Any, name: str) -> None:
    check(value, name)


@given(st.dictionaries(KEYS, anything, max_size=5) | anything, st.sampled_from(["auto", *EXAMPLES]))
def test_any_value_is_a_row_or_unfit(value: Any, name: str) -> None:
    check(value, name)


def check(value: Any, name: str) -> None:
    """Nothing but Unfit is raised, what is made reads back and is made again, and the value stays as it was."""
    params = MAPPED.model_copy(update={"format": name})
    before = repr(value)
    try:
        row = formats.to_row(value, source="landed", params=params)
    except Unfit as error:
        assert error.kind in formats.KINDS
        assert "\n" not in str(error)
    else:
        assert Row.from_line(row.to_line()) == row
        assert to_row(json.loads(row.to_line()), PARAMS) == row
    assert repr(value) == before


good = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1).map(
    lambda text: unicodedata.normalize("NFC", text)
).filter(lambda text: bool(text.strip()))  # fmt: skip


@given(st.lists(st.tuples(good, good), min_size=1, max_size=3), st.none() | good, st.lists(good, max_size=2))
def test_every_format_says_the_same(pairs: list[tuple[str, str]], system: str | None, tags: list[str]) -> None:
    """One conversation in four spellings is one row."""
    *history, (asked, answer) = pairs
    alpaca = {"instruction": asked, "output": answer, "history": [list(pair) for pair in history], "system": system}
    opening = [] if system is None else [{"role": "system", "content": system}]
    spoken = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    sharegpt = [{"from": names[turn["role"]], "value": turn["content"]} for turn in opening + spoken]
    spellings: list[dict[str, Any]] = [
        alpaca, {"messages": opening + spoken}, {"conversations": sharegpt},
        {"prompt": opening + spoken[:-1], "completion": answer},
    ]  # fmt: skip
    rows = {to_row({**spelling, "tags": tags}, PARAMS).to_line() for spelling in spellings}
    assert len(rows) == 1
    row = Row.from_line(rows.pop())
    assert said(row)[-2:] == [("user", asked), ("assistant", answer)]
    assert to_row(json.loads(row.to_line()), PARAMS) == row
