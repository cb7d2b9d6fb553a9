"""What the suites say: the share of items passed by category, and what the tuned model has lost against the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.data.report.evaluations import Evaluation

SHOWN = 10


@dataclass(frozen=True)
class Group:
    """A category of a suite, or (without a name) the whole of it; `shares` in the targets' order."""

    suite: str
    category: str
    items: int
    shares: tuple[float | None, ...]


@dataclass(frozen=True)
class Lost:
    """An item that the base passes and the tuned model does not; `broken` names the checks."""

    suite: str
    category: str
    prompt: str
    before: str
    after: str
    broken: tuple[str, ...]


def groups(evaluations: Sequence[Evaluation]) -> tuple[Group, ...]:
    """Each suite, then its categories, as every target passed them."""
    return tuple(_groups(evaluations))


def _groups(evaluations: Sequence[Evaluation]) -> Iterator[Group]:
    each = [evaluation.measured.suites for evaluation in evaluations]
    for suite, first in next((suites for suites in each if suites), {}).items():
        yield Group(suite, "", first.items, tuple(own[suite].passed if suite in own else None for own in each))
        for name, share in first.categories.items():
            found = (own[suite].categories.get(name) if suite in own else None for own in each)
            yield Group(suite, name, share.items, tuple(other.passed if other else None for other in found))


def lost(base: Evaluation, tuned: Evaluation) -> tuple[Lost, ...]:
    """All that were lost, in the items' order."""
    theirs = {(outcome.suite, outcome.id): outcome for outcome in base.outcomes}
    return tuple(
        Lost(
            own.suite, own.category, own.prompt, before.answer, own.answer,
            tuple(check.kind for check, fine in zip(own.checks, own.passed, strict=True) if not fine),
        )
        for own in tuned.outcomes
        if not own.whole and (before := theirs.get((own.suite, own.id))) and before.whole
    )  # fmt: skip
