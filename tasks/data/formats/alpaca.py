"""Alpaca: `instruction`, `input`, `output`, with `system` and `history` (pairs of question and answer).

`input` follows `instruction` after a line feed, as LLaMA-Factory joins them (data/README.md, "Alpaca Format"); the
headings of Stanford's own prompt (`### Instruction:`) are a template's affair and not the data's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tasks.core.sections import DataParams
from tasks.data.formats import fields
from tasks.data.formats.unfit import Unfit

NAME = "alpaca"


def recognises(value: Mapping[str, Any]) -> bool:
    return "instruction" in value and "output" in value


def convert(value: Mapping[str, Any], params: DataParams) -> dict[str, Any]:
    asked = [fields.words(value, "instruction"), fields.words(value, "input")]
    messages = _history(fields.listed(value, "history"))
    messages.append({"role": "user", "content": "\n".join(text for text in asked if text.strip())})
    messages.append({"role": "assistant", "content": fields.words(value, "output")})
    return {"messages": messages}


def _history(pairs: list[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        texts = cast("list[object]", pair) if isinstance(pair, list) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise Unfit("wrong type", f"history[{number}]: expected a question and its answer, two texts")
        messages.append({"role": "user", "content": texts[0]})
        messages.append({"role": "assistant", "content": texts[1]})
    return messages
