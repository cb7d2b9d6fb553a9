"""What the rules found, added up for the data card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tasks.data.quality.finding import Finding
from tasks.data.quality.pii import redacted
from tasks.data.rows import Row

EXAMPLES = 5

_SHOWN = 120  # characters
_READ = 1000  # characters that are redacted before the cut: a find across the cut is not shown in part


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Value):
    """A row that a rule found: its id, and the beginning of its text, personal data taken out."""

    id: str
    detail: str
    text: str

    @classmethod
    def of(cls, row: Row, finding: Finding) -> Example:
        text = " ".join(redacted(_said(row, finding.rule)[:_READ]).split())
        return cls(id=redacted(row.id), detail=finding.detail, text=text[:_SHOWN])

    @property
    def order(self) -> tuple[str, str, str]:
        return self.id, self.detail, self.text


class Found(_Value):
    """What one rule found, in rows."""

    found: Annotated[int, Field(ge=0)] = 0
    dropped: Annotated[int, Field(ge=0)] = 0
    examples: tuple[Example, ...] = ()

    def __add__(self, other: Found) -> Found:
        examples = sorted((*self.examples, *other.examples), key=lambda example: example.order)
        return Found(
            found=self.found + other.found, dropped=self.dropped + other.dropped, examples=tuple(examples[:EXAMPLES])
        )


class Tally(_Value):
    """Rule -> what it found. A row that two rules drop counts as dropped in both.

    Laws: addition is associative and commutative with `Tally()` as zero;
    `Tally.model_validate_json(t.model_dump_json()) == t`; the order of the rows changes nothing.
    """

    rules: Mapping[str, Found] = {}

    @classmethod
    def of(cls, examined: Iterable[tuple[Row, Iterable[Finding]]]) -> Tally:
        """Rows with their findings. Rows are shown as given: hand in what they were before redaction or after it."""
        found: dict[str, Found] = {}
        for row, findings in examined:
            for finding in findings:
                found[finding.rule] = found.get(finding.rule, Found()) + _one(row, finding, found.get(finding.rule))
        return cls(rules=dict(sorted(found.items())))

    @classmethod
    def counted(cls, rule: str, found: int, dropped: int, first: Iterable[tuple[str, str]]) -> Tally:
        """What was found among rows whose texts are not at hand; `first` are ids and details, the lowest ids first."""
        examples = tuple(Example(id=redacted(id), detail=detail, text="") for id, detail in first)
        return cls(rules={rule: Found(found=found, dropped=dropped, examples=examples)})

    def __add__(self, other: Tally) -> Tally:
        names = sorted({*self.rules, *other.rules})
        return Tally(rules={name: self.rules.get(name, Found()) + other.rules.get(name, Found()) for name in names})


def _one(row: Row, finding: Finding, so_far: Found | None) -> Found:
    """One row's share; no example where five with lower ids are there, which spares the redaction of most rows."""
    full = so_far is not None and len(so_far.examples) == EXAMPLES
    late = full and so_far is not None and redacted(row.id) > so_far.examples[-1].id
    examples = () if late else (Example.of(row, finding),)
    return Found(found=1, dropped=int(finding.action == "drop"), examples=examples)


def _said(row: Row, rule: str) -> str:
    """The text that a reader needs to see: the answer for rules about answers, else the first question."""
    if rule.startswith("answers."):
        return row.messages[-1].text
    return next(message.text for message in row.messages if message.role == "user")
