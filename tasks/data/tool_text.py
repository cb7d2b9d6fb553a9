"""Tools in a conversation: as transformers passes them to a template, or as text for a template that knows none.

The text convention is the one of Hermes and Qwen 2.5: the tools' descriptions stand in the system turn within
`<tools>`, a call is a line of JSON within `<tool_call>` in the assistant's turn, and results come back in a user's
turn within `<tool_response>`. docs/data.md shows one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from tasks.core.errors import DataError
from tasks.data.rows import Message, ToolCall

_INTRODUCTION = """\
# Tools

You may call functions to help with the user's request. Their signatures stand within <tools></tools>:
<tools>
{tools}
</tools>

For each call, write a JSON object with the function's name and its arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <arguments-object>}}
</tool_call>"""


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as transformers passes them on. DataError: one holds an image."""
    return plain(messages) or list(_with_calls(messages))


def plain(messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """The messages of a conversation without calls, as most are; None if there are some."""
    turns = list[dict[str, Any]]()
    for message in messages:
        if message.tool_calls or message.role == "tool":
            return None
        turns.append({"role": message.role, "content": _words(message)})
    return turns


def as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with tools, calls and results written out; roles are system, user and assistant alone.

    Law: `as_text(messages[:-1], tools)` is a prefix of `as_text(messages, tools)` where the last is an answer.
    """
    turns = plain(messages) or list(_with_calls_as_text(messages))
    return _introduced(turns, tools) if tools else turns


def described(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools as transformers passes them on: each within its kind."""
    return [dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools]


def _with_calls(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Results take their call's name and id, in order: templates ask for one or the other."""
    waiting = list[ToolCall]()
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": _words(message)}
        if message.tool_calls:
            waiting = list(message.tool_calls)
            turn["tool_calls"] = [_call(call) for call in message.tool_calls]
        elif message.role == "tool" and waiting:
            call = waiting.pop(0)
            turn |= {"name": call.name} | ({"tool_call_id": call.id} if call.id else {})
        yield turn


def _with_calls_as_text(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for role, group in groupby(messages, key=lambda message: message.role):
        if role == "tool":
            yield {"role": "user", "content": "\n".join(_response(message) for message in group)}
        else:
            yield from ({"role": role, "content": _spoken(message)} for message in group)


def _call(call: ToolCall) -> dict[str, Any]:
    named: dict[str, Any] = {"id": call.id} if call.id else {}
    return named | {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _words(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.images:
        raise DataError(f"the {message.role} message holds an image, and this base reads text only: take the row out")
    return message.text


def _spoken(message: Message) -> str:
    calls = (
        json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False) for call in message.tool_calls
    )
    return "\n".join(filter(None, (_words(message), *(f"<tool_call>\n{call}\n</tool_call>" for call in calls))))


def _response(message: Message) -> str:
    return f"<tool_response>\n{_words(message)}\n</tool_response>"


def _introduced(turns: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    text = _INTRODUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in described(tools)))
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]
