"""What the data card says, as plain values: where the rows came from, what became of each, what they look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from tasks.data.drift import Drift
from tasks.data.profile import Profile
from tasks.data.report.histogram import Histogram
from tasks.data.report.values import Value

Count = Annotated[int, Field(ge=0)]

OTHERS = "(all others)"
"""Stands for the names that a census does not keep."""


class Identity(Value):
    """What the training set was made with: digests in hex; `params` by dotted path, those that shape it."""

    digest: str
    base: str
    template: str
    tools: str = ""
    params: dict[str, str] = Field(default_factory=dict[str, str])


class Parent(Value):
    """The data version before this one, and the rows since. Law: rows now = before + added - forgotten."""

    version: str
    before: Count
    added: Count
    forgotten: Count


class Split(Value):
    """Rows and tokens of one part. A group is the rows of one prompt: it stands in one split."""

    name: str
    rows: Count
    tokens: Count
    loss_tokens: Count
    groups: Count


class Accounting(Value):
    """What became of every row. Law: read = the splits' rows + dropped + held out + learned before."""

    read: Count
    splits: tuple[Split, ...]
    dropped: dict[str, Count] = Field(default_factory=dict[str, int])
    held_out: Count = 0
    learned: Count = 0
    """By the version that is continued, and not replayed."""

    @model_validator(mode="after")
    def _loses_none(self) -> Self:
        found = sum(split.rows for split in self.splits) + sum(self.dropped.values()) + self.held_out + self.learned
        if found != self.read:
            raise ValueError(f"{self.read:,} rows were read, but {found:,} are accounted for")
        return self

    def split(self, name: str) -> Split:
        """The split of that name; an empty one where it has no rows."""
        empty = Split(name=name, rows=0, tokens=0, loss_tokens=0, groups=0)
        return next((split for split in self.splits if split.name == name), empty)


class Continuing(Value):
    """The version that training goes on from, which knows the rows up to data version `data`; of the training rows, how
    many are new to it and how many it sees again."""

    reference: str
    data: Count
    new: Count
    replayed: Count


class Arrival(Value):
    """One shard of the data version."""

    name: str
    source: str
    rows: Count


class Change(Value):
    """The rows added since the parent, and how far they are from those before."""

    sources: dict[str, Count] = Field(default_factory=dict[str, int])
    tags: dict[str, Count] = Field(default_factory=dict[str, int])
    drift: Drift | None = None


class Composition(Value):
    """Rows by source, by tag and split, by number of turns, and of some kinds. A row counts once for each of its tags."""

    sources: dict[str, Count] = Field(default_factory=dict[str, int])
    tags: dict[str, dict[str, Count]] = Field(default_factory=dict[str, dict[str, int]])
    turns: dict[int, Count] = Field(default_factory=dict[int, int])
    with_system: Count = 0
    with_tools: Count = 0
    with_images: Count = 0

    @classmethod
    def of(cls, by_split: Mapping[str, Profile]) -> Composition:
        """From the profile of each split."""
        whole = Profile()
        for each in by_split.values():
            whole = whole.merge(each)
        tags = {
            tag: {split: each.tags.counts.get(tag, 0) for split, each in by_split.items()} for tag in whole.tags.counts
        }
        if whole.tags.other:
            tags[OTHERS] = {split: each.tags.within(whole.tags).other for split, each in by_split.items()}
        sources = whole.sources.counts | ({OTHERS: whole.sources.other} if whole.sources.other else {})
        return cls(
            sources=sources, tags=tags, turns=whole.turns,
            with_system=whole.with_system, with_tools=whole.with_tools, with_images=whole.with_images,
        )  # fmt: skip


class Lengths(Value):
    """Histograms of rows: tokens of the whole row, characters of its prompts and answers.

    `fences` are the token counts beyond which a row is an outlier (Tukey 1977).
    """

    tokens: Histogram = Histogram()
    prompts: Histogram = Histogram()
    answers: Histogram = Histogram()
    max_length: int
    fences: tuple[int, int] | None = None


class Example(Value):
    """A row that a rule found: its id, what was found, and some of its text."""

    id: str
    detail: str
    excerpt: str


class RuleResult(Value):
    """What a quality rule found and what was done: `found` rows, `dropped` of them."""

    rule: str
    action: str
    found: Count
    dropped: Count
    examples: tuple[Example, ...] = ()


class Mixed(Value):
    """One source in an epoch: its rows, its weight, how often each row is seen, its share of all that is seen."""

    source: str
    rows: Count
    weight: float
    copies: float
    share: float


class Packing(Value):
    """Rows packed into token budgets. `capacity` is the tokens that the packs could hold, in all."""

    packs: Count
    budget: Count
    rows: Count
    tokens: Count
    capacity: Count
    longest: Count

    @property
    def fill(self) -> float | None:
        return self.tokens / self.capacity if self.capacity else None

    @property
    def rows_a_pack(self) -> float | None:
        return self.rows / self.packs if self.packs else None


class FrozenTest(Value):
    """The test set, which later versions only add to."""

    rows: Count
    digest: str
