"""Messages of `role` and `content`, as OpenAI's interface and most data sets write them, as canonical messages."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, cast

from tasks.data.formats import calls, fields, images
from tasks.data.formats.unfit import Unfit

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Dropping these would change what is learned, and a row has no place for them.
_NOT_LEARNABLE = ("refusal", "audio", "reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image")


def read(found: list[Any], where: str = "messages") -> list[dict[str, Any]]:
    """Unfit: a message is none, has an unknown role, or something that a row can't say."""
    messages = [_message(item, f"{where}[{number}]") for number, item in enumerate(found)]
    return _results_in_order(messages, where) if any("answers" in message for message in messages) else messages


def _message(found: object, where: str) -> dict[str, Any]:
    value = fields.mapping(found, where)
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = repr(role[:40]) if isinstance(role, str) else fields.kind_of(role)
        raise Unfit("unknown role", f"{where}.role: expected one of {', '.join(ROLES)}, found {shown}")
    if len(value) > 2:
        _check_others(value, where)
    message: dict[str, Any] = {"role": ROLES[role], "content": _content(value.get("content"), where)}
    if made := _calls(value, where):
        message["tool_calls"] = made
    if value.get("tool_call_id") is not None and message["role"] == "tool":
        message["answers"] = value["tool_call_id"]
    return message


def _check_others(value: Mapping[str, Any], where: str) -> None:
    for key in _NOT_LEARNABLE:
        if value.get(key):
            raise Unfit(
                "not learnable", f"{where}.{key}: a row has no place for it, and without it it teaches another thing"
            )
    if value.get("weight") not in (None, 1):
        raise Unfit("not learnable", f"{where}.weight: single turns can't be weighted; every answer is learned")


def _calls(value: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    found = fields.listed(value, "tool_calls", f"{where}.")
    if value.get("function_call") is not None:
        found = [*found, value["function_call"]]
    return [calls.call(item, f"{where}.tool_calls[{number}]") for number, item in enumerate(found)]


def _content(found: object, where: str) -> Any:
    """Text, or parts if an image is among them: parts of text alone are one text."""
    if found is None:
        return ""
    if isinstance(found, str):
        return found
    if not isinstance(found, list):
        raise Unfit("wrong type", f"{where}.content: expected text or parts, found {fields.kind_of(found)}")
    parts = [_part(item, f"{where}.content[{n}]") for n, item in enumerate(cast("list[object]", found))]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(found: object, where: str) -> dict[str, Any]:
    value = {"type": "text", "text": found} if isinstance(found, str) else fields.mapping(found, where)
    kind = value.get("type")
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": fields.words(value, "text", f"{where}.")}
    if kind not in _IMAGE_PARTS:
        shown = repr(kind[:40]) if isinstance(kind, str) else fields.kind_of(kind)
        raise Unfit("image", f"{where}.type: expected text or an image, found {shown}")
    address = next((value[key] for key in ("image_url", "image", "url", "path") if value.get(key) is not None), None)
    return {"type": "image", "image": None if address is None else images.reference(address, where)}


def _results_in_order(messages: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Results of calls made at once in the order of the calls, so that a result's place says whose it is.

    Unfit: a result names a call that was not made.
    """
    ordered: list[dict[str, Any]] = []
    made: dict[object, int] = {}
    for are_results, run in groupby(messages, key=lambda message: message["role"] == "tool"):
        turns = list(run)
        if are_results:
            turns.sort(key=lambda result: _place(result.pop("answers", None), made, where))
        else:
            made = {call["id"]: at for at, call in enumerate(turns[-1].get("tool_calls", ())) if "id" in call}
        ordered += turns
    return ordered


def _place(identity: object, made: dict[object, int], where: str) -> int:
    if identity is None or not made:
        return 0
    if not isinstance(identity, str) or identity not in made:
        raise Unfit("tool call", f"{where}: the result of a call whose id no call before it has")
    return made[identity]
