"""ShareGPT: `conversations` of `from` and `value`, with `system` and `tools` beside them.

The roles are those of LLaMA-Factory (data/README.md, "Sharegpt Format") and the names that other collections use. A
`function_call` turn holds the call, or a list of calls made at once, as JSON; `observation` is a call's result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.sections import DataParams
from tasks.data.formats import calls, fields, turns
from tasks.data.formats.unfit import Unfit

NAME = "sharegpt"

_CALL = "call"
ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": _CALL,
    "tool_call": _CALL,
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}


def recognises(value: Mapping[str, Any]) -> bool:
    return value.get("conversations") is not None


def convert(value: Mapping[str, Any], params: DataParams) -> dict[str, Any]:
    """`conversations` of `role` and `content` are read like `messages`."""
    found = fields.listed(value, "conversations")
    if found and isinstance(found[0], dict) and "role" in found[0]:
        return {"messages": turns.read(found, "conversations")}
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(found):
        _add(messages, fields.mapping(item, f"conversations[{number}]"), f"conversations[{number}]")
    return {"messages": messages}


def _add(messages: list[dict[str, Any]], turn: Mapping[str, Any], where: str) -> None:
    """A call after the assistant's words, or after another call, belongs to the same turn."""
    name = turn.get("from")
    if not isinstance(name, str) or name not in ROLES:
        shown = repr(name[:40]) if isinstance(name, str) else fields.kind_of(name)
        raise Unfit("unknown role", f"{where}.from: expected one of {', '.join(ROLES)}, found {shown}")
    role, text = ROLES[name], fields.words(turn, "value", f"{where}.")
    if role != _CALL:
        messages.append({"role": role, "content": text})
        return
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).extend(calls.spoken(text, where))
