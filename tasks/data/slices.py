"""Parts of the test rows: by tag, and by quarter of the prompt's and of the reference's length. A mean over all rows hides
a part that fails.

Laws: the quarters of one length are a partition of the rows, and rows of equal length share one; what is found does not
depend on the rows' order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.data import paired

Kind = Literal["tag", "prompt length", "reference length"]
FEWEST = 5
"""Rows below which a part's mean says nothing."""
RESAMPLES = 2_000
WHOLE = frozenset({"macro_f1"})
"""Metrics of all rows together: no part has its own."""


@dataclass(frozen=True)
class Judged:
    """One test row: lengths in characters, and the metrics' values."""

    tags: tuple[str, ...]
    prompt: int
    reference: int
    values: Mapping[str, float | None]


class Interval(BaseModel):
    """Mean of the rows that have a value, and its 95% interval by the bootstrap (Efron 1979)."""

    model_config = ConfigDict(frozen=True)

    rows: int
    mean: float
    low: float
    high: float


class Slice(BaseModel):
    """`rows` counts all of the part's; `metrics` has an interval for each metric that has a value in one of them."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    name: str
    rows: int
    metrics: dict[str, Interval]


def parts(rows: Sequence[Judged]) -> dict[tuple[Kind, str], list[int]]:
    """The places of each part's rows: tags alphabetically, then lengths from short to long."""
    tags = defaultdict[str, list[int]](list)
    for place, row in enumerate(rows):
        for tag in dict.fromkeys(row.tags):
            tags[tag].append(place)
    found: dict[tuple[Kind, str], list[int]] = {("tag", tag): tags[tag] for tag in sorted(tags)}
    for name, places in _quarters([row.prompt for row in rows]):
        found["prompt length", name] = places
    for name, places in _quarters([row.reference for row in rows]):
        found["reference length", name] = places
    return found


def of(rows: Sequence[Judged]) -> tuple[Slice, ...]:
    """Every part with its figures."""
    names = list(dict.fromkeys(name for row in rows for name in row.values if name not in WHOLE))
    return tuple(
        Slice(kind=kind, name=name, rows=len(places), metrics=dict(_figures([rows[place] for place in places], names)))
        for (kind, name), places in parts(rows).items()
    )


def worst(slices: Iterable[Slice], metric: str, most: int) -> tuple[Slice, ...]:
    """The parts of at least FEWEST rows with the lowest means, lowest first; of equal ones the larger."""
    known = [part for part in slices if metric in part.metrics and part.metrics[metric].rows >= FEWEST]
    return tuple(sorted(known, key=lambda part: (part.metrics[metric].mean, -part.rows, part.kind, part.name))[:most])


def lowest(rows: Sequence[Judged], metric: str) -> float | None:
    """The mean of the worst part, as `worst` finds it; None if none is large enough."""
    means = (
        []
        if metric in WHOLE
        else [
            sum(known) / len(known)
            for places in parts(rows).values()
            if len(known := _known([rows[place] for place in places], metric)) >= FEWEST
        ]
    )
    return min(means, default=None)


def _figures(rows: Sequence[Judged], names: Sequence[str]) -> Iterable[tuple[str, Interval]]:
    for name in names:
        if known := sorted(_known(rows, name)):  # sorted: what is drawn must not depend on the rows' order
            mean, low, high = paired.interval(known, resamples=RESAMPLES)
            yield name, Interval(rows=len(known), mean=mean, low=low, high=high)


def _known(rows: Sequence[Judged], name: str) -> list[float]:
    return [value for row in rows if (value := row.values.get(name)) is not None]


def _quarters(lengths: Sequence[int]) -> Iterable[tuple[str, list[int]]]:
    """Parts between the quartiles, those without a row left out: their range in characters, and the places."""
    if not lengths:
        return
    edges = np.quantile(lengths, (0.25, 0.5, 0.75), method="inverted_cdf")
    quarter = np.searchsorted(edges, lengths, side="left")
    for number in range(4):
        places = np.flatnonzero(quarter == number).tolist()
        if places:
            own = [lengths[place] for place in places]
            yield f"{min(own):,} to {max(own):,} characters", places
