"""Which rows a user means: `tag=billing`, `source=web`, `id=7f3a`, `text~REGEX`; several conditions must all hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.core.errors import ParamsError
from tasks.data.rows import Row

FIELDS: dict[str, Callable[[Row], Sequence[str]]] = {
    "id": lambda row: [row.id],
    "source": lambda row: [row.source],
    "tag": lambda row: row.tags,
    "text": lambda row: [message.text for message in row.messages],
}


@dataclass(frozen=True)
class Selection:
    """`conditions` as the user wrote them. Law: a selection without conditions can't be made."""

    conditions: tuple[str, ...]
    _tests: tuple[Callable[[Row], bool], ...]

    def __call__(self, row: Row) -> bool:
        return all(test(row) for test in self._tests)

    def __str__(self) -> str:
        return " and ".join(self.conditions)


def parse(conditions: Sequence[str]) -> Selection:
    """ParamsError: no condition, an unknown field, or a pattern that is none."""
    if not conditions:
        raise ParamsError("--where is missing: say which rows, for instance --where tag=billing")
    return Selection(tuple(conditions), tuple(map(_test, conditions)))


def _test(condition: str) -> Callable[[Row], bool]:
    match = re.fullmatch(r"(\w+)([=~])(.+)", condition, re.DOTALL)
    if match is None or match[1] not in FIELDS:
        raise ParamsError(f"--where {condition}: expected FIELD=VALUE or FIELD~REGEX with one of {', '.join(FIELDS)}")
    values, wanted = FIELDS[match[1]], match[3]
    if match[2] == "=":
        return lambda row: wanted in values(row)
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise ParamsError(f"--where {condition}: {wanted!r} is no regular expression: {error}") from None
    return lambda row: any(pattern.search(value) for value in values(row))
