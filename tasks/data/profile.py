"""What a set of rows looks like, without the rows: counts that are small, exact and can be added up.

Laws: `profile(a + b) == profile(a).merge(profile(b))`; merging is commutative and associative; the empty profile is
neutral. Everything is an integer, so that the order of the rows never shows.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.data import vocabulary
from tasks.data.census import Census, Tally
from tasks.data.rows import Message, Row

EDGES = tuple(sorted({round(2 ** (step / 16)) for step in range(24 * 16 + 1)}))
"""Characters at which the bins of a histogram begin, 16 an octave up to 2^24; bin 0 holds what has none."""
BINS = len(EDGES) + 1
MOST_TURNS = 100
"""Rows of more turns are counted here."""
_BATCH = 1 << 16
"""Characters whose words are counted together: enough to make numpy worth calling, small enough to stay in its cache."""

Count = Annotated[int, Field(ge=0)]
Bins = Annotated[tuple[Count, ...], Field(min_length=BINS, max_length=BINS)]
Words = Annotated[tuple[Count, ...], Field(min_length=vocabulary.BUCKETS, max_length=vocabulary.BUCKETS)]


class Profile(BaseModel):
    """Counts of rows.

    `turns` counts messages but the system's. `prompts` and `answers` are histograms of a row's characters: of what users
    and tools say, and of what the assistant says and calls. `words` is the sketch of `tasks.data.vocabulary` over both;
    `wordless` rows have none. System prompts are counted, not read: a long one that every row repeats would hide the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    rows: Count = 0
    sources: Census = Census()
    tags: Census = Census()
    untagged: Count = 0
    turns: dict[Annotated[int, Field(ge=1, le=MOST_TURNS)], Count] = {}
    with_system: Count = 0
    with_tools: Count = 0
    with_images: Count = 0
    prompts: Bins = (0,) * BINS
    answers: Bins = (0,) * BINS
    words: Words = (0,) * vocabulary.BUCKETS
    wordless: Count = 0

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        parts = {"sources": self.sources.total, "turns": sum(self.turns.values())}
        parts |= {"prompts": sum(self.prompts), "answers": sum(self.answers)}
        for name, rows in parts.items():
            if rows != self.rows:
                raise ValueError(f"{name} count {rows} rows of {self.rows}")
        return self

    def merge(self, other: Profile) -> Profile:
        """The profile of both sets of rows together."""
        turns = Counter(self.turns)
        turns.update(other.turns)
        return Profile(
            rows=self.rows + other.rows,
            sources=self.sources.merge(other.sources),
            tags=self.tags.merge(other.tags),
            untagged=self.untagged + other.untagged,
            turns=dict(sorted(turns.items())),
            with_system=self.with_system + other.with_system,
            with_tools=self.with_tools + other.with_tools,
            with_images=self.with_images + other.with_images,
            prompts=_sum(self.prompts, other.prompts),
            answers=_sum(self.answers, other.answers),
            words=_sum(self.words, other.words),
            wordless=self.wordless + other.wordless,
        )

    @property
    def exact(self) -> bool:
        """Whether every name has its own count, so that a part can be taken out again."""
        return not (self.sources.other or self.tags.other)

    def without(self, part: Profile) -> Profile:
        """The profile of the other rows. Law: `a.merge(b).without(b) == a`, where the whole is `exact`."""
        turns = Counter(self.turns)
        turns.subtract(part.turns)
        return Profile(
            rows=self.rows - part.rows,
            sources=self.sources.without(part.sources),
            tags=self.tags.without(part.tags),
            untagged=self.untagged - part.untagged,
            turns={turn: count for turn, count in sorted(turns.items()) if count},
            with_system=self.with_system - part.with_system,
            with_tools=self.with_tools - part.with_tools,
            with_images=self.with_images - part.with_images,
            prompts=_difference(self.prompts, part.prompts),
            answers=_difference(self.answers, part.answers),
            words=_difference(self.words, part.words),
            wordless=self.wordless - part.wordless,
        )


def _difference(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int.__sub__, left, right))


def _sum(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int.__add__, left, right))


def profile(rows: Iterable[Row]) -> Profile:
    """The profile of the rows, which are read once and not kept."""
    accumulator = Accumulator()
    for row in rows:
        accumulator.add(row)
    return accumulator.profile()


class Accumulator:
    """Builds a profile row by row, in memory that does not grow with their number. It may go on after `profile()`."""

    def __init__(self) -> None:
        self._rows = self._untagged = self._wordless = 0
        self._with_system = self._with_tools = self._with_images = 0
        self._sources, self._tags = Tally(), Tally()
        self._turns = Counter[int]()
        self._prompts, self._answers = [0] * BINS, [0] * BINS
        self._words = np.zeros(vocabulary.BUCKETS, np.int64)
        self._texts: list[str] = []
        self._waiting = 0

    def add(self, row: Row) -> None:
        messages = row.messages
        system = messages[0].role == "system"
        asked = "\n".join([message.text for message in messages if message.role in ("user", "tool")])
        answered = "\n".join([_answer(message) for message in messages if message.role == "assistant"])
        self._rows += 1
        self._turns[min(len(messages) - system, MOST_TURNS)] += 1
        self._prompts[bisect_right(EDGES, len(asked))] += 1
        self._answers[bisect_right(EDGES, len(answered))] += 1
        self._with_system += system
        self._with_tools += bool(row.tools) or any(message.tool_calls for message in messages)
        self._with_images += any(message.images for message in messages)
        self._label(row)
        self._read(f"{asked}\n{answered}")

    def _label(self, row: Row) -> None:
        self._sources.add(row.source)
        self._untagged += not row.tags
        for tag in set(row.tags):
            self._tags.add(tag)

    def _read(self, text: str) -> None:
        self._texts.append(text)
        self._waiting += len(text) + 1
        if self._waiting >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        words, wordless = vocabulary.rows_with_words(self._texts)
        self._words += words
        self._wordless += wordless
        self._texts, self._waiting = [], 0

    def profile(self) -> Profile:
        """What was added so far."""
        self._flush()
        return Profile(
            rows=self._rows,
            sources=self._sources.census(),
            tags=self._tags.census(),
            untagged=self._untagged,
            turns=dict(sorted(self._turns.items())),
            with_system=self._with_system,
            with_tools=self._with_tools,
            with_images=self._with_images,
            prompts=tuple(self._prompts),
            answers=tuple(self._answers),
            words=tuple(self._words.tolist()),
            wordless=self._wordless,
        )


def _answer(message: Message) -> str:
    """What the model learns to write: its words, and its calls with their arguments."""
    if not message.tool_calls:
        return message.text
    calls = [f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}" for call in message.tool_calls]
    return "\n".join([message.text, *calls])
