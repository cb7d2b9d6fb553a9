"""What a row says about itself and not to the model: id, source, weight, tags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from tasks.data.formats import clean, fields
from tasks.data.formats.unfit import Unfit


def of(value: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Those that are there; null and empty text are absent. Unfit: one has another type than it should."""
    labels: dict[str, Any] = {"source": clean.text(fields.words(value, "source") or source, "source")}
    if identity := _id(value.get("id")):
        labels["id"] = identity
    if value.get("weight") not in (None, ""):
        labels["weight"] = _weight(value["weight"])
    if tags := [*_tags(value, "tags"), *_tags(value, "tag")]:
        labels["tags"] = tags
    return labels


def _id(found: object) -> str:
    """Numbers are identities, too: `7` and `"7"` are one."""
    if found is None:
        return ""
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 1 << 64:
        return str(found)
    if not isinstance(found, str):
        raise Unfit("wrong type", f"id: expected text or a whole number, found {fields.kind_of(found)}")
    return clean.text(found, "id")


def _weight(found: object) -> float:
    """A number, or its text (cells of a table are text)."""
    try:
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise ValueError
        weight = float(found)
    except (ValueError, OverflowError):
        raise Unfit("wrong type", f"weight: expected a number, found {fields.kind_of(found)}") from None
    if not (math.isfinite(weight) and 0 < weight <= 100):
        raise Unfit("out of range", f"weight: expected a number above 0 and up to 100, found {weight}")
    return weight


def _tags(value: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts; one text is one tag."""
    found = value.get(key)
    listed = cast("list[object]", found if isinstance(found, list) else [] if found is None else [found])
    for tag in listed:
        if not isinstance(tag, str):
            raise Unfit("wrong type", f"{key}: expected text, found {fields.kind_of(tag)}")
    return [clean.text(tag, key) for tag in cast("list[str]", listed) if tag]
