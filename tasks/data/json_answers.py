"""Answers that should be JSON: whether they are, and which of the reference's fields they have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from tasks.data.landing import strict

Path = tuple[str, ...]


def valid(answer: str, reference: str) -> float | None:
    """1 if the answer is JSON, else 0; None if the reference is none either."""
    return None if _parsed(reference) is None else float(_parsed(answer) is not None)


def fields(answer: str, reference: str) -> float | None:
    """Share of the reference's fields that the answer has with equal values; None if the reference is no object, or an
    empty one.

    Law: 1 for the reference itself, however its keys are ordered and spaced.
    """
    wanted = paths(_value(reference))
    if not wanted:
        return None
    ours = paths(_value(answer))
    return sum(ours.get(path) == value for path, value in wanted.items()) / len(wanted)


def paths(value: Any) -> dict[Path, str]:
    """Each field by its path, as `plain` spells its value. Lists and empty objects are values; what is no object has none."""
    found, left = dict[Path, str](), [((), value)] if isinstance(value, dict) else []
    while left:
        path, inner = left.pop()
        if path and not (isinstance(inner, dict) and inner):
            found[path] = plain(inner)
        else:
            left += [((*path, key), item) for key, item in cast("dict[str, Any]", inner).items()]
    return found


def plain(value: Any) -> str:
    """One spelling for equal values: keys in order, 1.0 as 1. True is not 1, "1" is not 1."""
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_whole(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def mean(values: Sequence[float | None]) -> float | None:
    """Of the rows that have a value; None if none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _parsed(text: str) -> tuple[Any] | None:
    """The value in a tuple, so that `null` is one."""
    try:
        return (strict.parse(text),)
    except strict.NotJson:
        return None


def _value(text: str) -> Any:
    parsed = _parsed(text)
    return parsed[0] if parsed else None
