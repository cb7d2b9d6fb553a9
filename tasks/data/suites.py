"""Suites of behavioural checks: prompts, and what an answer to each has to be. Files of JSON lines in one folder.

    {"prompt": "What is 7 + 15?", "checks": [{"regex": "\\\\b22\\\\b"}], "category": "arithmetic", "example": "22"}

docs/evaluation.md has every field and every kind of check.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.core import digest
from tasks.core.errors import DataError, ParamsError
from tasks.core.sections import Word
from tasks.data.assertions import Check
from tasks.data.landing import strict
from tasks.data.report.values import complaint
from tasks.data.rows import Message, Row

SUFFIX = ".jsonl"


class Item(BaseModel):
    """A prompt, or the messages of a conversation up to the answer, and the checks that the answer has to pass.

    `example` is an answer that passes them: a check that refuses it, or that an empty answer passes too, is a mistake.
    Law: `id` is one of the content, so that an item that changes is another item.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Word | None = None
    messages: tuple[Message, ...] = ()
    checks: tuple[Check, ...] = Field(min_length=1)
    category: Word = "checks"
    language: Word | None = None
    example: str | None = None

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("expected a prompt or messages, and not both")
        try:
            Row(id="item", messages=self.asked)
        except ValidationError as error:
            raise ValueError(complaint(error)) from None
        if self.example is not None and (broken := [c.kind for c in self.checks if not c.passes(self.example)]):
            raise ValueError(f"its own example does not pass {', '.join(broken)}: {self.example!r}")
        return self

    @cached_property
    def id(self) -> str:
        return digest.of_value(self.model_dump(mode="json", exclude_defaults=True))[:16]

    @property
    def asked(self) -> tuple[Message, ...]:
        """The conversation with a last turn for the answer, as `ChatTokenizer.prompt` wants it."""
        turns = self.messages or (Message(role="user", content=self.prompt or ""),)
        return (*turns, Message(role="assistant", content="…"))


class Outcome(BaseModel):
    """An item as one model answered it: `passed` has a verdict a check, in their order, and `value` is 1 if all passed, else
    0. An item of another kind (tasks/ml/harness.py) has no checks, and a value of its own."""

    model_config = ConfigDict(frozen=True)

    suite: str
    id: str
    category: str
    language: str | None
    prompt: str
    answer: str
    checks: tuple[Check, ...] = ()
    passed: tuple[bool, ...] = ()
    value: float

    @property
    def whole(self) -> bool:
        return self.value == 1

    def line(self) -> dict[str, Any]:
        """As JSON."""
        checks = [check.model_dump(mode="json", exclude_defaults=True) for check in self.checks]
        return {**self.model_dump(mode="json", exclude={"checks"}), "checks": checks}


class Share(BaseModel):
    """Items, and the share of them that passed all their checks: the mean of their values."""

    model_config = ConfigDict(frozen=True)

    items: int
    passed: float


class Figures(Share):
    """Of a whole suite; its mean is over the items, not over the categories."""

    categories: dict[str, Share]


def path(folder: Path, name: str) -> Path:
    return folder / f"{name}{SUFFIX}"


def read(folder: Path, name: str) -> tuple[Item, ...]:
    """A suite. ParamsError: it is not there. DataError: a line is no item (file and line are named), or stands twice."""
    file = path(folder, name)
    if not file.is_file():
        known = sorted(other.stem for other in folder.glob("*") if other.suffix in (SUFFIX, ".yaml"))
        raise ParamsError(f"evaluate.suites: there is no {file}; suites there: {', '.join(known) or 'none'}")
    items = dict[str, Item]()
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.strip():
            item = _item(line, f"{file}:{number}")
            if item.id in items:
                raise DataError(f"{file}:{number}: the same item stands there twice: take one out")
            items[item.id] = item
    if not items:
        raise DataError(f"{file} holds no items: take {name} out of evaluate.suites, or write some")
    return tuple(items.values())


def _item(line: bytes, where: str) -> Item:
    try:
        return Item.model_validate(strict.parse(line.decode("utf-8")))
    except (UnicodeDecodeError, strict.NotJson) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    except ValidationError as error:
        raise DataError(f"{where}: {complaint(error).removeprefix('Value error, ')}. Mend the line") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def sample(items: Iterable[Item], most: int | None) -> tuple[Item, ...]:
    """Of each category and language at the most so many, by the digests of the items; None: all.

    Laws: the choice depends on the items alone, never on their order; one more item moves out one other at the most.
    """
    groups = defaultdict[tuple[str, str], list[Item]](list)
    for item in sorted(items, key=lambda item: item.id):
        groups[item.category, item.language or ""].append(item)
    return tuple(item for key in sorted(groups) for item in groups[key][:most])


def judge(suite: str, item: Item, answer: str) -> Outcome:
    """DataError: a pattern took too long; suite and item are named."""
    try:
        passed = tuple(check.passes(answer) for check in item.checks)
    except DataError as error:
        raise DataError(f"suite {suite}, item {item.id}: {error}") from None
    asked = "\n".join(message.text for message in item.asked[:-1])
    return Outcome(
        suite=suite, id=item.id, category=item.category, language=item.language, prompt=asked, answer=answer,
        checks=item.checks, passed=passed, value=float(all(passed)),
    )  # fmt: skip


def figures(outcomes: Sequence[Outcome]) -> dict[str, Figures]:
    """By suite; the categories alphabetically, each by language where there are several.

    Law: the categories' shares, weighed by their items, make the suite's.
    """
    suites = defaultdict[str, list[Outcome]](list)
    for outcome in outcomes:
        suites[outcome.suite].append(outcome)
    return {name: _figures(own) for name, own in suites.items()}


def _figures(outcomes: Sequence[Outcome]) -> Figures:
    several = len({outcome.language for outcome in outcomes}) > 1
    groups = defaultdict[str, list[Outcome]](list)
    for outcome in outcomes:
        groups[f"{outcome.category}, {outcome.language or '-'}" if several else outcome.category].append(outcome)
    categories = {name: Share(items=len(own), passed=_share(own)) for name, own in sorted(groups.items())}
    return Figures(items=len(outcomes), passed=_share(outcomes), categories=categories)


def _share(outcomes: Sequence[Outcome]) -> float:
    return sum(outcome.value for outcome in outcomes) / len(outcomes)
