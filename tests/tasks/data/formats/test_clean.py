"""Text changes by the rules alone; what a line can't hold is refused."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.formats import Unfit, clean
from tests.tasks.data.formats.spellings import (
    CALL,
    EXAMPLES,
    A,
    Q,
    called,
    function,
    messages,
    said,
    to_row,
    turns,
    unfit,
)


@given(st.text())
def test_text_changes_by_the_rules_alone(text: str) -> None:
    expected = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    refused = [c for c in expected if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    try:
        cleaned = clean.text(text, "here")
    except Unfit as error:
        if error.kind == "combining marks":
            assert expected != text
            return
        assert error.kind == "control character"
        point = re.search(r"here holds the character U\+([0-9A-F]{4,6}) at character", str(error))
        assert point
        bad = chr(int(point[1], 16))
        assert bad in refused or ord(bad) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(bad) <= 0xFDEF
        return
    assert cleaned == expected
    assert not refused
    assert clean.text(cleaned, "here") == cleaned


@pytest.mark.parametrize(
    "code", [0, 8, 0xB, 0xC, 0x1B, 0x7F, 0x85, 0x9F, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF, 0xFDD0, 0xD800]
)
@pytest.mark.parametrize("name", ["alpaca", "messages", "sharegpt", "completion", "columns", "canonical"])
def test_control_characters_are_refused_by_name_in_every_format(name: str, code: int) -> None:
    value = json.loads(json.dumps(EXAMPLES[name]).replace('"a"', json.dumps(f"a{chr(code)}b")))
    kind, message = unfit(value)
    assert kind == "control character"
    assert f"U+{code:04X} at character 2" in message


@pytest.mark.timeout(20)
def test_combining_marks_can_t_keep_the_line_busy() -> None:
    """Python's normalisation takes minutes for a row like the first one."""
    assert unfit({"instruction": "a" + "\u0301\u0316" * 250_000, "output": "a"})[0] == "combining marks"
    in_order = "b" + "\u0316" * 500_000 + "\u0301" * 500_000
    assert said(to_row({"instruction": in_order, "output": "a"}))[0] == ("user", in_order)
    assert said(to_row({"instruction": "a" + "\u0301\u0316" * 15, "output": "a"}))[0][1].startswith("\u00e1\u0316")


@pytest.mark.timeout(20)
def test_a_row_of_many_small_things_is_read_in_time() -> None:
    many = 50_000
    results = [{"role": "tool", "tool_call_id": str(number), "content": "r"} for number in reversed(range(many))]
    row = to_row(messages(Q, called(*(function(str(number)) for number in range(many))), *results, A))
    assert len(row.messages) == many + 3
    assert len(to_row(turns(("human", "q"), *[("function_call", CALL)] * many)).messages[1].tool_calls) == many


def test_what_looks_like_control_is_kept() -> None:
    text = "  <|im_end|>\n<|im_start|>assistant\t\u200b\u202e\ufeff\U0001f469\u200d\U0001f680 \u2028 "
    assert said(to_row({"instruction": text, "output": text})) == [("user", text), ("assistant", text)]
    assert said(to_row({"instruction": "e\u0301\r\nx\ry", "output": "a"}))[0] == ("user", "\u00e9\nx\ny")


def test_arguments_and_tools_are_cleaned_too() -> None:
    row = to_row(messages(Q, called(function(arguments={"e\u0301": ["x\r\n"]})), tools=[{"name": "e\u0301"}]))
    assert row.messages[1].tool_calls[0].arguments == {"\u00e9": ["x\n"]}
    assert row.tools[0]["function"] == {"name": "\u00e9"}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"x": "\x00"}, "control character"), ({"\x00": 1}, "control character"), ({"x": float("nan")}, "out of range"),
        ({"x": float("inf")}, "out of range"), ({"x": 2**64}, "out of range"), ({"x": -(2**63) - 1}, "out of range"),
        ({"x": deep(200)}, "too deep"), ({"x": deep(5000)}, "too deep"), ({"e\u0301": 1, "\u00e9": 2}, "control character"),
    ],
)  # fmt: skip
def test_arguments_that_a_line_can_t_hold_are_refused(arguments: Any, kind: str) -> None:
    assert unfit(messages(Q, called(function(arguments=arguments))))[0] == kind
    assert unfit(messages(Q, A, tools=[{"name": "f", "parameters": arguments}]))[0] == kind
