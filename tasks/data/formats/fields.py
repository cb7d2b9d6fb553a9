"""Fields of a foreign row, read with their types. An absent field and a null one are the same: tables write null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tasks.data.formats.unfit import Kind, Unfit
from tasks.data.landing import strict


def words(value: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text, empty if it is absent."""
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise Unfit("wrong type", f"{where}{key}: expected text, found {kind_of(found)}")
    return found


def listed(value: Mapping[str, Any], key: str, where: str = "") -> list[Any]:
    """A list, or its JSON text (tables have no lists); empty if it is absent."""
    found = value.get(key)
    if isinstance(found, str):
        found = parsed(found, f"{where}{key}", "wrong type") if found.strip() else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise Unfit("wrong type", f"{where}{key}: expected a list, found {kind_of(found)}")
    return cast("list[Any]", found)


def parsed(text: str, where: str, kind: Kind) -> Any:
    """The value of a JSON text. Unfit of that kind: it is none."""
    try:
        return strict.parse(text)
    except strict.NotJson as error:
        raise Unfit(kind, f"{where} is not JSON: {error}") from None


def mapping(value: object, where: str, kind: Kind = "wrong type") -> Mapping[str, Any]:
    """An object. Unfit of that kind: it is something else."""
    if not isinstance(value, Mapping):
        raise Unfit(kind, f"{where}: expected an object, found {kind_of(value)}")
    return cast("Mapping[str, Any]", value)


def kind_of(value: object) -> str:
    """A value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, str):
        return "text"
    return "a number" if isinstance(value, int | float) else "a list"
