"""Rows in every format, short ways to write them, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.core.sections import DataParams
from tasks.data import formats
from tasks.data.formats import Unfit
from tasks.data.rows import Row

PARAMS = DataParams()
MAPPED = DataParams.model_validate(
    {
        "columns": [
            {"prompt": "question", "completion": "answer", "system": "context", "tags": ["topic", "level"]},
            {"prompt": "question", "completion": "answer"},
            {"prompt": "mr", "completion": "ref"},
        ]
    }
)

EXAMPLES: dict[str, dict[str, Any]] = {
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "columns": {"question": "q", "answer": "a"},
    "canonical": {"id": "7", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "completion": {"prompt": "q", "completion": "a"},
}
"""Every format with one value of it. A new file under tasks/data/formats/ fails test_formats.py until it has its own."""

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = '{"name": "f", "arguments": {"x": 1}}'


def to_row(value: Any, params: DataParams = MAPPED) -> Row:
    return formats.to_row(value, source="landed", params=params)


def said(row: Row) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in row.messages]


def unfit(value: Any, params: DataParams = MAPPED) -> tuple[str, str]:
    with pytest.raises(Unfit) as caught:
        to_row(value, params)
    assert caught.value.kind in formats.KINDS
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


def turns(*said: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": name, "value": text} for name, text in said], **fields}


def called(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def function(identity: str | None = None, arguments: Any = '{"x": 1}') -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": "f", "arguments": arguments}}


def messages(*found: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(found), **fields}
