"""Personal data in rows: counted, or replaced by its kind in brackets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

from tasks.core.sections import Pii
from tasks.data.quality import personal
from tasks.data.quality.finding import Finding
from tasks.data.quality.personal import Kind
from tasks.data.rows import ImagePart, Message, Row, TextPart, ToolCall

KINDS: tuple[Kind, ...] = ("email", "phone", "card", "iban", "ip")


def examine(row: Row, params: Pii) -> tuple[Row, list[Finding]]:
    """The row, redacted where that is asked for, and a finding for each kind that it has."""
    if params.action == "ignore":
        return row, []
    counts = Counter(span.kind for text in _texts(row) for span in personal.spans(text) if span.kind in params.kinds)
    found = [Finding(f"pii.{kind}", params.action, f"{kind}: {counts[kind]}") for kind in KINDS if counts[kind]]
    if params.action == "redact" and found:
        row = _changed(row, lambda text: redacted(text, params.kinds))
    return row, found


def redacted(text: str, kinds: tuple[Kind, ...] = KINDS) -> str:
    """The text with [EMAIL], [PHONE], [CARD], [IBAN] or [IP] in the place of each find.

    Law: nothing of these kinds is found in the result, and redacting it again changes nothing.
    """
    while found := [span for span in personal.spans(text) if span.kind in kinds]:
        edges = [0, *(edge for span in found for edge in span[:2]), len(text)]
        kept = [text[edges[place] : edges[place + 1]] for place in range(0, len(edges), 2)]
        marks = [f"[{span.kind.upper()}]" for span in found]
        text = "".join(piece for pair in zip(kept, [*marks, ""], strict=True) for piece in pair)
    return text


def _texts(row: Row) -> Iterator[str]:
    """Every text of the conversation, those inside of tool calls too."""
    for message in row.messages:
        yield message.text
        for call in message.tool_calls:
            yield from _strings(call.arguments)


def _strings(value: Any) -> Iterator[str]:
    """The strings in a JSON value; keys are names that the tool gave, no data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in cast("dict[str, Any]", value).values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _strings(item)


def _changed(row: Row, change: Callable[[str], str]) -> Row:
    return row.model_copy(update={"messages": tuple(_message(message, change) for message in row.messages)})


def _message(message: Message, change: Callable[[str], str]) -> Message:
    content = message.content
    new = change(content) if isinstance(content, str) else tuple(_part(part, change) for part in content)
    calls = tuple(_call(call, change) for call in message.tool_calls)
    return message.model_copy(update={"content": new, "tool_calls": calls})


def _part(part: TextPart | ImagePart, change: Callable[[str], str]) -> TextPart | ImagePart:
    return part.model_copy(update={"text": change(part.text)}) if isinstance(part, TextPart) else part


def _call(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    return call.model_copy(update={"arguments": _value(call.arguments, change)})


def _value(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _value(item, change) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_value(item, change) for item in cast("list[Any]", value)]
    return value
