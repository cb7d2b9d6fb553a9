"""Verdicts in words."""

from __future__ import annotations

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
    spread = "" if ruling.low is None else f" (95% {figure(ruling.low)} to {figure(ruling.high)})"
    return f"{ruling.rule} {figure(ruling.measured)}{spread}, needed {ruling.direction} {figure(ruling.needed)}"


def figure(value: float | None) -> str:
    """Small divergences keep their digits."""
    if value is not None and 0 < abs(value) < 0.0095:
        return f"{value:.2g}".replace("-", units.MINUS)
    return units.as_text(value)
