"""Verdicts in words."""

from __future__ import annotations

from collections.abc import Sequence

import wcwidth

from tasks.core.verdict import Ruling, Verdict
from tasks.data.report import units


def sentence(verdict: Verdict) -> str:
    """For a person: within its budget, or refused by which rules."""
    if verdict.passed:
        return f"{verdict.format}: within its budget"
    return f"{verdict.format}: {f'refused: {broken(verdict)}' if verdict.made else verdict.note}"


def broken(verdict: Verdict) -> str:
    return "; ".join(map(explained, verdict.broken))


def explained(ruling: Ruling) -> str:
    """For instance `exact_match −0.156 (95% −0.198 to −0.115), needed at least −0.050`."""
    spread = "" if ruling.low is None else f" ({_interval(ruling)})"
    return f"{ruling.rule} {figure(ruling.measured)}{spread}, needed {_needed(ruling)}"


def first(given: Sequence[Ruling], most: int = 4) -> str:
    """The first ones explained, and how many more there are: a model that got worse breaks the rules of every slice too."""
    more = f"; and {len(given) - most} more" if len(given) > most else ""
    return "; ".join(map(explained, given[:most])) + more


def rows(given: Sequence[Ruling]) -> list[dict[str, str]]:
    """A table's rows, one a rule."""
    return [
        {
            "rule": ruling.rule, "measured": figure(ruling.measured),
            "interval": "" if ruling.low is None else _interval(ruling), "needed": _needed(ruling),
            "passed": "yes" if ruling.passed else "no",
        }
        for ruling in given
    ]  # fmt: skip


def as_text(given: Sequence[Ruling]) -> str:
    """An aligned table for a terminal, the rules to the left and the figures to the right."""
    table = rows(given)
    lines = [list(table[0]), *(list(row.values()) for row in table)]
    widths = [max(wcwidth.width(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            (wcwidth.rjust if column in (1, 2) else wcwidth.ljust)(cell, widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )


def _interval(ruling: Ruling) -> str:
    """The level as its rule has it: a rule among several has a wider one."""
    return f"{100 * ruling.confidence:.4g}% {figure(ruling.low)} to {figure(ruling.high)}"


def _needed(ruling: Ruling) -> str:
    return f"{ruling.direction} {figure(ruling.needed)}"


def figure(value: float | None) -> str:
    """Small divergences keep their digits."""
    if value is not None and 0 < abs(value) < 0.0095:
        return f"{value:.2g}".replace("-", units.MINUS)
    return units.as_text(value)
