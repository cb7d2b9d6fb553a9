"""The line's own rows, as `Row.to_line` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tasks.core.sections import DataParams
from tasks.data.formats import fields
from tasks.data.rows import Row

NAME = "canonical"

_ROW = frozenset(Row.model_fields)
_MESSAGE = frozenset({"role", "content", "tool_calls"})
_CALL = frozenset({"name", "arguments", "id"})
_ROLES = frozenset({"system", "user", "assistant", "tool"})


def recognises(value: Mapping[str, Any]) -> bool:
    """An `id` in text, canonical `messages`, and nothing that a row has no field for."""
    messages = value.get("messages")
    return (
        isinstance(value.get("id"), str)
        and isinstance(messages, list)
        and value.keys() <= _ROW
        and all(_is_message(message) for message in cast("list[object]", messages))
    )


def _is_message(found: object) -> bool:
    if not isinstance(found, dict) or not found.keys() <= _MESSAGE:
        return False
    value = cast("dict[str, Any]", found)
    role, content, calls = value.get("role"), value.get("content", ""), value.get("tool_calls", [])
    return (
        isinstance(role, str)
        and role in _ROLES
        and (isinstance(content, str) or (isinstance(content, list) and all(map(_is_part, content))))
        and isinstance(calls, list)
        and all(map(_is_call, calls))
    )


def _is_part(found: object) -> bool:
    if not isinstance(found, dict):
        return False
    part = cast("dict[str, Any]", found)
    return part.keys() == {"type", part.get("type")} and part["type"] in ("text", "image")


def _is_call(found: object) -> bool:
    if not isinstance(found, dict) or not found.keys() <= _CALL:
        return False
    return isinstance(cast("dict[str, Any]", found).get("arguments"), dict)


def convert(value: Mapping[str, Any], params: DataParams) -> dict[str, Any]:
    """The row as it is. What it has beyond a row's fields is refused when it is checked."""
    messages = [dict(fields.mapping(item, "messages")) for item in fields.listed(value, "messages")]
    draft = {**value, "messages": messages, "tools": fields.listed(value, "tools")}
    return {key: item for key, item in draft.items() if key not in ("id", "source", "weight", "tags")}
