"""Values by layer: from the patterns of params.yaml to each layer, and back to a pattern that PEFT reads alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tasks.core.errors import ParamsError

Value = TypeVar("Value", int, float)


def resolve(names: list[str], pattern: Mapping[str, Value], default: Value, where: str) -> dict[str, Value]:
    """Each layer's value: that of the first key that fits the end of its name, as in PEFT.

    ParamsError: a key is no regular expression, or fits none of the layers; the nearest is named.
    """
    fits = {key: _compiled(key, where) for key in pattern}
    for key, fit in fits.items():
        if not any(fit.match(name) for name in names):
            raise ParamsError(f"{where}: no layer that trains is called {key!r}; {nearest(key, names)}")
    return {name: next((pattern[key] for key, fit in fits.items() if fit.match(name)), default) for name in names}


def pattern(values: Mapping[str, Value], default: Value) -> dict[str, Value]:
    """What PEFT resolves to these values, whatever the order of its keys: ends of names where they say enough."""
    ends: dict[str, set[Value]] = {}
    for name, value in values.items():
        ends.setdefault(end(name), set()).add(value)
    short = {last: next(iter(found)) for last, found in ends.items() if len(found) == 1}
    long = {name: value for name, value in values.items() if end(name) not in short}
    return {key: value for key, value in {**short, **long}.items() if value != default}


def nearest(key: str, names: Iterable[str]) -> str:
    """A hint: what may have been meant, and what there is."""
    ends = sorted({end(name) for name in names})
    near = difflib.get_close_matches(key, ends, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(ends)}"


def end(name: str) -> str:
    return name.rpartition(".")[2]


def _compiled(key: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise ParamsError(f"{where}: {key!r} is no regular expression: {error}") from None
