"""Tool calls in an answer's text, as the templates of the common families write them.

Within `<tool_call>` as tasks/data/tool_text.py writes them (Hermes, Qwen); or the answer as a whole is a call or a list of
calls (Llama, Mistral). A call is an object with `name` and `arguments` (Llama: `parameters`), which may be JSON text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

from tasks.data import json_answers
from tasks.data.landing import strict

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_BROKEN = ("", "")
"""A call that can't be read: it was made, and is like no other."""


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over calls, as multisets. Law: 1 for equal texts; the order of calls is free."""
    ours, wanted = Counter(read(answer)), Counter(read(reference))
    if not ours and not wanted:
        return 1.0
    if answer == reference:
        return 1.0
    shared = ours & wanted
    del shared[_BROKEN]
    return 2 * shared.total() / (ours.total() + wanted.total())


def read(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each call, the arguments as `json_answers.plain` spells them."""
    blocks = _BLOCK.findall(text)
    if blocks:
        return [call for block in blocks for call in (list(_calls(_value(block))) or [_BROKEN])]
    return list(_calls(_value(text)))


def _calls(value: Any) -> Iterator[tuple[str, str]]:
    """Nothing where the value is neither a call nor a list of calls alone."""
    each = cast("list[Any]", value) if isinstance(value, list) else [value]
    found = [_call(one) for one in each]
    if all(found):
        yield from (call for call in found if call)


def _call(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    call = cast("dict[str, Any]", value)
    call = call["function"] if isinstance(call.get("function"), dict) else call
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = _value(arguments)
    if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        return None
    return call["name"], json_answers.plain(arguments)


def _value(text: str) -> Any:
    try:
        return strict.parse(text)
    except strict.NotJson:
        return None
