"""Instruction, input, output."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.data.formats.spellings import said, to_row, unfit


def test_alpaca_s_input_follows_its_instruction() -> None:
    value = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"], ["c", "d"]]}
    assert said(to_row(value)) == [
        ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]  # fmt: skip
    null = {
        "instruction": "Add.",
        "input": None,
        "output": "3",
        "system": None,
        "history": None,
        "tags": None,
        "id": None,
    }
    assert said(to_row(null)) == [("user", "Add."), ("assistant", "3")]
    assert said(to_row({"instruction": "", "input": "1 2", "output": "3"})) == [("user", "1 2"), ("assistant", "3")]


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        ({"instruction": "q", "output": ""}, "blank turn", "messages[1]: the assistant message is blank"),
        ({"instruction": "q", "output": None}, "blank turn", "assistant"),
        ({"instruction": " ", "input": "\n", "output": "a"}, "blank turn", "messages[0]: the user message is blank"),
        ({"instruction": 7, "output": "a"}, "wrong type", "instruction: expected text, found a number"),
        ({"instruction": "q", "output": ["a"]}, "wrong type", "output: expected text, found a list"),
        ({"instruction": "q", "output": "a", "history": [["a"]]}, "wrong type", "history[0]"),
        ({"instruction": "q", "output": "a", "history": "x"}, "wrong type", "history is not JSON"),
        ({"instruction": "q"}, "unknown format", "found the keys 'instruction'"),
    ],
)
def test_alpaca_rows_that_are_unfit(value: dict[str, Any], kind: str, says: str) -> None:
    found, message = unfit(value)
    assert found == kind
    assert says in message
