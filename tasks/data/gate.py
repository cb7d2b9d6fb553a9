"""The gate: whether a version may take the champion's place. A pure function of scores, facts and rules.

Each metric may be worse than the opponent's by a margin at the most: its whole 95% interval keeps to it. All have to, so
nothing is corrected there (intersection-union: Berger 1982). One has to be surely better: of m that it may be, each by an
interval at 1 - 0.05 / m (Bonferroni), and for a metric of right and wrong by McNemar's exact test too. No part of the rows
(a tag, a quarter of the lengths) may be surely worse, at 1 - 0.05 / k for k such comparisons. So of versions that are no
better than the champion about one in 40 passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import DataError
from tasks.core.rules import PromoteParams
from tasks.core.scores import LOSS, Scores
from tasks.core.verdict import Ruling
from tasks.data import paired
from tasks.data.slices import WHOLE

ALPHA = 0.05
BASE, CHAMPION = "base", "champion"


class Facts(BaseModel):
    """What else is known of the version. contaminated: training rows left that hold test rows; None: nobody looked.
    formats: those within their budget. signed: by a trusted key; None: nobody looked."""

    model_config = ConfigDict(frozen=True)

    train_rows: int
    contaminated: int | None
    formats: tuple[str, ...]
    signed: bool | None = None


class Case(BaseModel):
    """What the gate judges; `champion` None: there is none yet."""

    model_config = ConfigDict(frozen=True)

    facts: Facts
    candidate: Scores
    base: Scores
    champion: Scores | None


def judge(case: Case, rules: PromoteParams) -> tuple[Ruling, ...]:
    """Every rule with what was measured and needed. Law: equal cases and rules give equal rulings,
    whatever the order of their names.

    DataError: the rules name a metric that was not measured, or a report is of other rows.
    """
    opponents = {BASE: case.base} | ({CHAMPION: case.champion} if case.champion else {})
    for name, scores in opponents.items():
        _check_rows(case.candidate, scores, name)
    _check_names(case.candidate, rules)
    return (*_minimums(case, rules), *_floors(case.candidate, rules), *(
        ruling for name, scores in opponents.items() for ruling in _against(case.candidate, scores, name, rules)
    ))  # fmt: skip


def _minimums(case: Case, rules: PromoteParams) -> Iterator[Ruling]:
    yield Ruling(rule="training rows", measured=case.facts.train_rows, direction="at least", needed=rules.rows.train)
    yield Ruling(rule="test rows", measured=len(case.candidate.ids), direction="at least", needed=rules.rows.test)
    yield Ruling(rule="contaminated rows", measured=case.facts.contaminated, direction="at most", needed=0)
    if rules.signed:
        signed = None if case.facts.signed is None else float(case.facts.signed)
        yield Ruling(rule="signed by a trusted key", measured=signed, direction="at least", needed=1)
    for format in rules.formats:
        passed = float(format in case.facts.formats)
        yield Ruling(rule=f"{format} within its budget", measured=passed, direction="at least", needed=1)


def _floors(candidate: Scores, rules: PromoteParams) -> Iterator[Ruling]:
    for name, floor in sorted(rules.floors.items()):
        known = [value for value in candidate.metrics[name] if value is not None]
        mean = sum(known) / len(known) if known else None
        yield Ruling(rule=name, measured=mean, direction="at least", needed=floor)


def _against(candidate: Scores, opponent: Scores, who: str, rules: PromoteParams) -> Iterator[Ruling]:
    """Not worse in any, better in one, no part and no suite worse."""
    names = _comparable(candidate, opponent)
    for name in names:
        yield _ruling(f"{name} against {who}", _pairs(candidate, opponent, name), -rules.margin)
    yield _better(candidate, opponent, who, [name for name in names if name in (rules.better or names)])
    yield from _slices(candidate, opponent, who, names, rules.rows.slice)
    yield from _suites(candidate, opponent, who, rules)


def _comparable(candidate: Scores, opponent: Scores) -> list[str]:
    """The metrics that both have, and the loss where both are asked for the same tokens."""
    shared = sorted(candidate.metrics.keys() & opponent.metrics.keys())
    return [LOSS, *shared] if candidate.tokens == opponent.tokens else shared


def _pairs(
    candidate: Scores, opponent: Scores, name: str, rows: Sequence[int] | None = None
) -> list[tuple[float, float]]:
    """Opponent's and candidate's values of the rows where both have one."""
    both = list(zip(opponent.better(name), candidate.better(name), strict=True))
    chosen = both if rows is None else [both[row] for row in rows]
    return [(before, after) for before, after in chosen if before is not None and after is not None]


def _ruling(rule: str, pairs: Sequence[tuple[float, float]], needed: float, confidence: float = 1 - ALPHA) -> Ruling:
    """The mean difference with its interval, at least `needed`."""
    if not pairs:
        return Ruling(rule=rule, measured=None, direction="at least", needed=needed)
    mean, low, high = paired.difference(*zip(*pairs, strict=True), confidence=confidence)
    return Ruling(
        rule=rule, measured=mean, low=low, high=high, confidence=confidence, direction="at least", needed=needed,
        p=paired.mcnemar(*zip(*pairs, strict=True)) if _right_or_wrong(pairs) else None,
    )  # fmt: skip


def _right_or_wrong(pairs: Sequence[tuple[float, float]]) -> bool:
    return all(value in (0, 1) for pair in pairs for value in pair)


def _better(candidate: Scores, opponent: Scores, who: str, names: Sequence[str]) -> Ruling:
    """The metric that speaks most for it, with an interval that has to lie above 0."""
    level = ALPHA / max(1, len(names))
    found = [
        _ruling(f"better than {who} in {name}", _pairs(candidate, opponent, name), 0.0, 1 - level).model_copy(
            update={"direction": "above", "p_needed": level}
        )
        for name in names
    ]
    none = Ruling(rule=f"better than {who} in any", measured=None, direction="above", needed=0.0)
    return max(found, key=lambda ruling: (ruling.passed, _clearance(ruling)), default=none)


def _clearance(ruling: Ruling) -> float:
    """How far its interval lies above 0, in its own width, so that metrics of all scales are alike."""
    if ruling.low is None or ruling.high is None:
        return float("-inf")
    return ruling.low / ((ruling.high - ruling.low) or 1.0)


def _slices(candidate: Scores, opponent: Scores, who: str, names: Sequence[str], least: int) -> Iterator[Ruling]:
    """Of each part the metric that fell most: even the far end of its interval has to reach 0."""
    parts = {part: rows for part, rows in sorted(candidate.slices.items()) if least <= len(rows) < len(candidate.ids)}
    apart = [name for name in names if name not in WHOLE]
    confidence = 1 - ALPHA / max(1, len(parts) * len(apart))
    for part, rows in parts.items():
        found = [
            _at_best(f"{name} of {part} against {who}", _pairs(candidate, opponent, name, rows), confidence)
            for name in apart
        ]
        known = [ruling for ruling in found if ruling is not None]
        if known:
            yield min(known, key=lambda ruling: ruling.measured or 0.0)


def _at_best(rule: str, pairs: Sequence[tuple[float, float]], confidence: float) -> Ruling | None:
    """The far end of the difference's interval; None without a value."""
    if not pairs:
        return None
    _, _, high = paired.difference(*zip(*pairs, strict=True), confidence=confidence)
    return Ruling(rule=f"{rule}, at best", measured=high, confidence=confidence, direction="at least", needed=0.0)


def _suites(candidate: Scores, opponent: Scores, who: str, rules: PromoteParams) -> Iterator[Ruling]:
    """Of each suite that the rules name, item by item; one that the opponent did not answer alike is not measured."""
    for suite, margin in sorted(rules.suites.items()):
        mine, theirs = candidate.suites.get(suite, {}), opponent.suites.get(suite, {})
        pairs = [(theirs[item], mine[item]) for item in sorted(mine)] if mine.keys() == theirs.keys() else []
        yield _ruling(f"suite {suite} against {who}", pairs, -margin)


def _check_rows(candidate: Scores, opponent: Scores, who: str) -> None:
    if candidate.ids != opponent.ids:
        odd = sorted(set(candidate.ids) ^ set(opponent.ids))
        what = f"row {odd[0]!r} is in one of them only" if odd else "their order differs"
        raise DataError(f"the version and the {who} were judged on different rows ({what}): evaluate both again")


def _check_names(candidate: Scores, rules: PromoteParams) -> None:
    for path, names in (("floors", rules.floors), ("better", rules.better)):
        for name in names:
            if name not in candidate.metrics and not (path == "better" and name == LOSS):
                raise DataError(
                    f"promote.{path} names {name}, which was not measured; there are {', '.join(candidate.metrics)}: "
                    "add it to evaluate.metrics"
                )
