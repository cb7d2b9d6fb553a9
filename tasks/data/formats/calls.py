"""Tool calls and tool descriptions, in the spellings that are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tasks.data.formats import fields
from tasks.data.formats.unfit import Unfit


def call(value: object, where: str) -> dict[str, Any]:
    """One call: `{name, arguments}` or OpenAI's `{id, type, function: {name, arguments}}`.

    `arguments` may be the JSON text of an object; absent, null or empty, there are none.
    """
    outer = fields.mapping(value, where, "tool call")
    inner = fields.mapping(outer.get("function") if outer.get("function") is not None else outer, where, "tool call")
    name = inner.get("name")
    if not isinstance(name, str) or not name.strip():
        raise Unfit("tool call", f"{where}: the call names no function")
    called: dict[str, Any] = {"name": name, "arguments": _arguments(inner.get("arguments"), where)}
    identity = outer.get("id")
    if identity is not None:
        if not isinstance(identity, str):
            raise Unfit("tool call", f"{where}: expected text as the call's id, found {fields.kind_of(identity)}")
        called["id"] = identity
    return called


def spoken(text: str, where: str) -> list[dict[str, Any]]:
    """The calls in a turn whose text is JSON: one call, or a list of calls made at once."""
    found = fields.parsed(text, where, "tool call")
    made = cast("list[object]", found if isinstance(found, list) else [found])
    if not made:
        raise Unfit("tool call", f"{where}: the list of calls is empty")
    return [call(item, where) for item in made]


def _arguments(found: object, where: str) -> Mapping[str, Any]:
    if isinstance(found, str):
        found = fields.parsed(found, f"{where}.arguments", "tool call") if found.strip() else None
    return fields.mapping({} if found is None else found, f"{where}.arguments", "tool call")


def tools(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The row's `tools`, or `functions` as they were called before: a list, or its JSON text.

    A bare function becomes `{"type": "function", "function": ...}`, which chat templates expect.
    """
    key = "tools" if value.get("tools") is not None else "functions"
    return [_tool(item, f"{key}[{number}]") for number, item in enumerate(fields.listed(value, key))]


def _tool(found: object, where: str) -> Mapping[str, Any]:
    tool = fields.mapping(found, where, "tools")
    if isinstance(tool.get("function"), Mapping):
        return tool
    if not isinstance(tool.get("name"), str):
        raise Unfit("tools", f"{where}: expected a function with a name")
    return {"type": "function", "function": tool}
