"""What an answer has to be: one check of a suite's item, and whether an answer passes it. Pure and bounded in time."""

from __future__ import annotations

from functools import cache
from typing import Any, Self, cast

import regex
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import DataError
from tasks.data.landing import strict

KINDS = ("contains", "not_contains", "equals", "regex", "json_schema", "max_length")
SECONDS = 1.0
"""Of one search. A pattern that needs more would make the verdict one of the machine, so that it is an error."""


class Check(BaseModel):
    """One of KINDS. `contains`, `not_contains` and `equals` leave case aside with `ignore_case`; `max_length` counts
    characters. Space around an answer never counts.

    Law: the same check and answer give the same verdict, on every machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    contains: str | None = Field(default=None, min_length=1)
    not_contains: str | None = Field(default=None, min_length=1)
    equals: str | None = None
    regex: str | None = Field(default=None, min_length=1, max_length=1000)
    json_schema: dict[str, Any] | None = None
    max_length: int | None = Field(default=None, ge=0)
    ignore_case: bool = False

    @model_validator(mode="after")
    def _is_one_that_works(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {', '.join(given) or 'none'}")
        if self.regex is not None:
            _compiled(self.regex)
        if self.json_schema is not None:
            _check_schema(self.json_schema)
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def passes(self, answer: str) -> bool:
        """DataError: a pattern took longer than an answer can be worth."""
        text = answer.strip()
        if self.regex is not None:
            return found(self.regex, text)
        if self.json_schema is not None:
            return _fits(self.json_schema, text)
        if self.max_length is not None:
            return len(text) <= self.max_length
        if self.equals is not None:
            return self._folded(text) == self._folded(self.equals.strip())
        part = self._folded(self.contains or self.not_contains or "")
        return (part in self._folded(text)) == (self.contains is not None)

    def _folded(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text


def found(pattern: str, text: str) -> bool:
    """Whether the pattern is anywhere in the text. DataError: it took more than SECONDS."""
    try:
        return _compiled(pattern).search(text, timeout=SECONDS) is not None
    except TimeoutError:
        raise DataError(
            f"the pattern {pattern[:200]!r} took more than {SECONDS:g} s on an answer of {len(text):,} characters: "
            "write it without nested repetition"
        ) from None


@cache
def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern[:200]!r} is no regular expression: {error}") from None


def _check_schema(schema: dict[str, Any]) -> None:
    """Valid by its draft, its patterns too, and whole: nothing is fetched to judge an answer."""
    from jsonschema import SchemaError

    try:
        _validator().check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"no JSON schema: {error.message}") from None
    left: list[Any] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            _check_keywords(cast("dict[str, Any]", value))
        if isinstance(value, dict | list):
            left += cast("list[Any]", list(value.values() if isinstance(value, dict) else value))


def _check_keywords(schema: dict[str, Any]) -> None:
    if isinstance(pattern := schema.get("pattern"), str):
        _compiled(pattern)
    if isinstance(address := schema.get("$ref", schema.get("$dynamicRef")), str) and not address.startswith("#"):
        raise ValueError(f"the schema refers to {address!r}: a schema has to be whole, with $defs and #/$defs/NAME")
    if isinstance(schema.get("patternProperties"), dict):
        raise ValueError("patternProperties is not bounded in time: name the properties, or use the check regex")


def _fits(schema: dict[str, Any], text: str) -> bool:
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        value = strict.parse(text)
    except strict.NotJson:
        return False
    try:
        return _validator()(schema, registry=Registry()).is_valid(value)
    except Unresolvable as error:
        raise DataError(f"the JSON schema refers to {error.ref!r}, which it does not hold: mend the schema") from None


@cache
def _validator() -> Any:
    """JSON Schema 2020-12, its `pattern` searched for as every other pattern here."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Any:
        if isinstance(value, str) and not found(wanted, value):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    return validators.extend(Draft202012Validator, {"pattern": pattern})
