"""The data card's charts with their titles and with what they show in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.data.drift import Drift
from tasks.data.report import distributions, units
from tasks.data.report.datafacts import Accounting, Composition, Lengths, Mixed
from tasks.data.report.histogram import Histogram

UNNAMED = "(unnamed)"
"""Stands for an empty name."""


@dataclass(frozen=True)
class Picture:
    """`name` is unique in its page; `summary` says in words what the chart shows."""

    name: str
    title: str
    svg: str
    summary: str


def fate(accounting: Accounting) -> Picture | None:
    """Where the rows went."""
    ends = {split.name: split.rows for split in accounting.splits}
    ends |= {f"dropped: {reason}": rows for reason, rows in ranked(accounting.dropped)}
    ends |= {"held out": accounting.held_out, "learned before": accounting.learned}
    rows = [(name, count) for name, count in ends.items() if count]
    if not rows:
        return None
    summary = f"Of {accounting.read:,} rows read: {_listed(rows, accounting.read)}."
    return Picture("fate", "Where the rows went", distributions.bars("fate", rows), summary)


def lengths(of: Lengths) -> Iterator[Picture]:
    """Tokens of a row, and characters of prompts and answers."""
    if of.tokens.rows:
        marks = {"max_length": of.max_length}
        if of.fences:
            marks |= {"outlier below": of.fences[0], "outlier above": of.fences[1]}
        yield _lengths("tokens", "Tokens a row", of.tokens, "tokens", marks)
    for name, found in (("prompts", of.prompts), ("answers", of.answers)):
        if found.rows:
            yield _lengths(name, f"Characters of the {name}", found, "characters a row", {})


def tags(of: Composition) -> Picture | None:
    rows = ranked({tag: sum(splits.values()) for tag, splits in of.tags.items()})
    if not rows:
        return None
    more = (
        f" Another {len(rows) - distributions.MOST_BARS:,} tags are not drawn."
        if len(rows) > distributions.MOST_BARS
        else ""
    )
    first, last = rows[0], rows[: distributions.MOST_BARS][-1]
    summary = f"From {first[0]} on {first[1]:,} rows to {last[0]} on {last[1]:,}; a row may have several.{more}"
    return Picture("tags", "Rows by tag", distributions.bars("tags", rows), summary)


def sources(of: Composition, mixing: Sequence[Mixed]) -> Picture | None:
    """What the sources hold and what an epoch sees of them; nothing where there is but one."""
    rows = sum(each.rows for each in mixing)
    if len(mixing) > 1 and rows:
        pairs = [(each.source or UNNAMED, each.rows / rows, each.share) for each in _by_share(mixing)]
        said = "; ".join(f"{name} {units.as_text(a, 'share')}, {units.as_text(b, 'share')}" for name, a, b in pairs[:5])
        svg = distributions.shares("sources", pairs, "of the training rows", "of an epoch")
        return Picture("sources", "Sources before and after mixing", svg, f"Before and after: {said}.")
    found = ranked(of.sources)
    if len(found) < 2:
        return None
    summary = f"{_listed(found[:5], sum(of.sources.values()))}."
    return Picture("sources", "Rows by source", distributions.bars("sources", found), summary)


def drift(found: Drift | None) -> Picture | None:
    if found is None:
        return None
    beyond = [f"{name} by {each.beyond_noise:.2f}" for name, each in found.measure.items() if each.beyond_noise > 0]
    said = (
        f"Beyond chance: {', '.join(beyond)}." if beyond else "Nothing differs by more than chance alone would make it."
    )
    return Picture("drift", "New rows against those before", distributions.distances("drift", found), said)


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest first, equal ones by name: the order does not depend on how the mapping was filled."""
    return [(name or UNNAMED, count) for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _by_share(mixing: Sequence[Mixed]) -> list[Mixed]:
    return sorted(mixing, key=lambda each: (-each.share, each.source))


def _lengths(name: str, title: str, found: Histogram, what: str, marks: Mapping[str, int]) -> Picture:
    far = marks.keys() - distributions.drawn(found, marks).keys()
    half, most, all_of_them = (found.at_most(share) for share in (0.5, 0.95, 1))
    said = f"Half of the rows have at most {half:,}, 95% at most {most:,}, none more than {all_of_them:,}."
    if left := ", ".join(f"{mark} {marks[mark]:,}" for mark in marks if mark in far):
        said += f" Out of the picture: {left}."
    return Picture(name, title, distributions.histogram(name, found, what, marks), said)


def _listed(rows: Sequence[tuple[str, int]], of: int) -> str:
    return "; ".join(f"{name} {count:,} ({units.as_text(count / of, 'share')})" for name, count in rows)
