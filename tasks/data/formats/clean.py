"""The rules for text: what is changed, and what is refused. Documented in docs/data.md.

1. Line ends CR LF and CR become LF.
2. Text is in Unicode's normal form C (UAX 15).
3. Other control characters (C0 but tab and LF, DEL, C1), halves of surrogate pairs and noncharacters are refused.
4. Text that rule 2 has to change is refused if more than 30 combining marks stand in a row in it (UAX 15,
   section 13, "Stream-Safe Text Format": no language needs more): putting them in order takes the square of their number.
5. Nothing else is changed: space around a text stays.

Law: cleaning twice is cleaning once.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any, cast

from tasks.data.formats.unfit import Unfit

DEEPEST = 100
"""Levels of nesting in a tool's description or arguments."""
MOST_MARKS = 30
"""Combining marks in a row, in text that is not in normal form C."""

_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_REFUSED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_NONCHARACTERS}]")


def text(value: str, where: str) -> str:
    """Unfit: the text holds what rule 3 or 4 refuses."""
    if value.isascii() and value.isprintable():
        return value
    if "\r" in value:
        value = value.replace("\r\n", "\n").replace("\r", "\n")
    if not unicodedata.is_normalized("NFC", value):
        _check_marks(value, where)
        value = unicodedata.normalize("NFC", value)
    if found := _REFUSED.search(value):
        place = f"at character {found.start() + 1}"
        raise Unfit("control character", f"{where} holds the character U+{ord(found.group()):04X} {place}")
    return value


def _check_marks(value: str, where: str) -> None:
    run = 0
    for character in value:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MOST_MARKS:
            raise Unfit("combining marks", f"{where} holds more than {MOST_MARKS} combining marks in a row")


def json(value: Any, where: str, depth: int = 0) -> Any:
    """The rules for every text inside a JSON value, keys too. Unfit also: a number that JSON or 64 bits can't hold."""
    if isinstance(value, str):
        return text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise Unfit("out of range", f"{where} holds a whole number of more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unfit("out of range", f"{where} holds {value}, which is no number in JSON")
        return value
    return _nested(value, where, depth + 1)


def _nested(value: Any, where: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise Unfit("too deep", f"{where} is nested deeper than {DEEPEST} levels")
    if isinstance(value, list | tuple):
        return [json(item, where, depth) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        raise Unfit("wrong type", f"{where} holds a {type(value).__name__}, which JSON does not know")
    pairs = cast("dict[Any, Any]", value)
    if not all(isinstance(key, str) for key in pairs):
        raise Unfit("wrong type", f"{where} has a key that is no text")
    cleaned = {text(key, where): json(item, where, depth) for key, item in pairs.items()}
    if len(cleaned) < len(pairs):
        raise Unfit("control character", f"{where} has two keys that are one in normal form C")
    return cleaned


def message(value: dict[str, Any], where: str) -> dict[str, Any]:
    """A canonical message with its texts cleaned. Unfit: it says nothing."""
    cleaned = {**value, "content": _content(value.get("content", ""), where)}
    if calls := value.get("tool_calls"):
        cleaned["tool_calls"] = json(calls, f"{where}.tool_calls")
    elif _is_blank(cleaned["content"]):
        raise Unfit("blank turn", f"{where}: the {value.get('role')} message is blank")
    return cleaned


def _content(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return text(content, where)
    return json(content, f"{where}.content")


def _is_blank(content: Any) -> bool:
    if isinstance(content, str):
        return not content or content.isspace()
    return isinstance(content, list) and all(
        isinstance(part, dict) and part.keys() == {"type", "text"} and not str(part["text"]).strip()
        for part in cast("list[Any]", content)
    )
