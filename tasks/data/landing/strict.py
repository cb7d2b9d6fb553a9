"""JSON as RFC 8259 has it and other programs can read it (RFC 7493, I-JSON): no NaN, no doubled keys, no half characters,
whole numbers of 64 bits, and no nesting that is only there to break a reader."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from tasks.data.landing.items import Found, Malformed, malformed, too_large

SPACE = b" \t\r\n"
DEEPEST = 100
"""Levels of nesting that a row may have."""


class NotJson(ValueError):
    """The text is not such JSON; the message says why, on one line."""


def item(place: int, data: bytes, limit: int) -> Found | Malformed:
    """One row's bytes, space around them removed, as an object or as the reason why they are none."""
    if len(data) > limit:
        return too_large(place, limit, data)
    try:
        value = parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{data[error.start]:02x} at position {error.start + 1} of the row"
        return malformed(place, reason, data)
    except NotJson as error:
        return malformed(place, f"not JSON: {error}", data)
    if not isinstance(value, dict):
        return malformed(place, f"expected a JSON object, found {_named(value)}", data)
    return Found(place, cast("dict[str, Any]", value))


def parse(text: str) -> Any:
    """The value of a whole JSON text. NotJson: it is none.

    Law: what is parsed can be written by `json.dumps(value).encode()` and read back equal.
    """
    text = text.strip(" \t\r\n")
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise NotJson(f"nested deeper than {DEEPEST} levels") from None
    if end != len(text):
        raise NotJson(f"more text after the value, at character {end + 1}")
    if "\\ud" in text or "\\uD" in text:
        _check_characters(value)
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise NotJson(f"nested deeper than {DEEPEST} levels")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise NotJson(f"the key {twice[:100]!a} stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise NotJson(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(f"the number {text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    # Python itself refuses to read more than 4,300 digits; nobody after us reads more than 64 bits.
    value = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 64:
        raise NotJson(f"the whole number {text[:40]}{'…' if len(text) > 40 else ''} has more than 64 bits")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
)


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotJson(f"the escape \\u{ord(error.object[error.start]):04x} is half a character") from None


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted level by level and not by recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _named(value: object) -> str:
    if value is None:
        return "null"
    return {"list": "an array", "str": "a string", "bool": "true or false"}.get(type(value).__name__, "a number")
