"""Verdicts: each rule with what was measured and what was needed. Pure, so that any of them can be made again.

Law: a verdict on what was made passes exactly if every ruling does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.core.sections import Budget

Direction = Literal["at most", "at least", "above"]


class Ruling(BaseModel):
    """One rule. `low` and `high` are the interval of what was measured, at `confidence`, where there is one; the whole
    interval has to keep to what is `needed`. `p`: of an exact test beside it; `p_needed`: at most that, if it counts."""

    model_config = ConfigDict(frozen=True)

    rule: str
    measured: float | None
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    p: float | None = None
    p_needed: float | None = None
    direction: Direction
    needed: float

    @property
    def passed(self) -> bool:
        """What was not measured passes no rule."""
        if self.measured is None:
            return False
        if self.direction == "at most":
            return max(self.measured, self.measured if self.high is None else self.high) <= self.needed
        if self.p is not None and self.p_needed is not None and self.p > self.p_needed:
            return False
        least = min(self.measured, self.measured if self.low is None else self.low)
        return least > self.needed if self.direction == "above" else least >= self.needed


class Verdict(BaseModel):
    """On one format: whether it may be published, by which rules. One that was not made has no rulings and may not."""

    model_config = ConfigDict(frozen=True)

    format: str
    made: bool = False
    note: str | None = None
    rulings: tuple[Ruling, ...] = ()

    @property
    def passed(self) -> bool:
        return self.made and all(ruling.passed for ruling in self.rulings)

    @property
    def broken(self) -> tuple[Ruling, ...]:
        return tuple(ruling for ruling in self.rulings if not ruling.passed)


LIKENESS: Mapping[str, Direction] = {
    "perplexity": "at most", "kl": "at most", "kl_p99": "at most", "agreement": "at least",
}  # fmt: skip
"""The rules on how near a format is to the model it was made of."""


def of_likeness(measured: Mapping[str, float], budget: Budget) -> tuple[Ruling, ...]:
    """`measured` as tasks/ml/fidelity.py names it. Rules that the budget leaves out are not asked."""
    limits = budget.model_dump()
    return tuple(
        Ruling(rule=rule, measured=measured.get(rule), direction=direction, needed=limits[rule])
        for rule, direction in LIKENESS.items()
        if limits[rule] is not None
    )
