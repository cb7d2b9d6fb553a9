"""The data card's charts: histograms, bars, and distances beside their noise. Law: equal numbers give equal bytes."""

# matplotlib's own stubs leave **kwargs without a type, so each of its drawing methods is partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.data.drift import Drift
from tasks.data.report import units
from tasks.data.report.charts import FIRST, INK, MUTED, SECOND, chart, svg
from tasks.data.report.histogram import Histogram
from tasks.data.report.template import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 12
LABEL = 24
"""Characters of a bar's name; the table has the whole."""
REACH = 1.3
"""A mark further out than so many times the longest row would press the rows together: the caption has it."""
NARROW = 4
"""Longest over shortest row up to which a log scale would only be harder to read."""
STYLES = ("--", ":", "-.")


def histogram(name: str, found: Histogram, what: str, marks: Mapping[str, int] | None = None) -> str:
    """Rows by length, with named lengths marked."""
    with _drawing(name) as (figure, axes):
        log = found.log and found.edges[-1] > NARROW * found.edges[0]
        edges = [max(edge, 0.5) for edge in found.edges]
        axes.stairs(found.counts, edges, fill=True, color=FIRST)
        if log:
            axes.set_xscale("log")
            _length_axis(axes, edges)
        shown = drawn(found, marks or {})
        for style, (label, at) in zip(STYLES, shown.items(), strict=False):
            axes.axvline(at, color=SECOND, linestyle=style, label=f"{label} {at:,}")
        if shown:
            figure.legend(loc="outside upper right", ncols=len(shown), frameon=False, labelcolor=INK, fontsize=10)
        axes.set_xlabel(f"{what}, log scale" if log else what)
        axes.set_ylabel("rows")
        axes.set_ylim(bottom=0)
        _thousands(axes)
        return svg(figure, name)


def drawn(found: Histogram, marks: Mapping[str, int]) -> dict[str, int]:
    """The marks that lie among the rows or near them."""
    return {
        label: at for label, at in marks.items() if found.edges[0] / REACH <= at <= REACH * found.edges[-1] and at > 0
    }


def bars(name: str, rows: Sequence[tuple[str, int]]) -> str:
    """A bar for each of the first names, its number at its end."""
    with _drawing(name) as (figure, axes):
        shown = rows[:MOST_BARS]
        drawn = axes.barh(range(len(shown)), [count for _, count in shown], color=FIRST, height=0.62)
        axes.bar_label(drawn, [f"{count:,}" for _, count in shown], padding=4, color=INK, fontsize=10)
        _names(axes, [label for label, _ in shown])
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        _across(axes)
        return svg(figure, name)


def shares(name: str, rows: Sequence[tuple[str, float, float]], first: str, second: str) -> str:
    """Two shares a name, one above the other, for instance of the data and of an epoch."""
    from matplotlib.ticker import PercentFormatter

    with _drawing(name) as (figure, axes):
        shown = rows[:MOST_BARS]
        places = range(len(shown))
        axes.barh([at - 0.19 for at in places], [a for _, a, _ in shown], color=MUTED, height=0.36, label=first)
        axes.barh([at + 0.19 for at in places], [b for _, _, b in shown], color=FIRST, height=0.36, label=second)
        _names(axes, [label for label, _, _ in shown])
        figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=INK, fontsize=10)
        axes.set_xlabel("share of the rows")
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        return svg(figure, name)


def distances(name: str, found: Drift) -> str:
    """How far the new rows are, in each respect, and how far chance alone would put them."""
    with _drawing(name) as (figure, axes):
        places = range(len(found.measure))
        measured = list(found.measure.values())
        axes.barh(places, [each.distance for each in measured], color=FIRST, height=0.5, label="distance")
        axes.barh(
            places, [each.noise for each in measured], color="none", edgecolor=SECOND, linewidth=1.6, linestyle="--",
            height=0.74, label="seldom exceeded by chance",
        )  # fmt: skip
        _names(axes, list(found.measure))
        figure.legend(loc="outside upper right", ncols=2, frameon=False, labelcolor=INK, fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_xlabel("0: alike; 1: nothing in common")
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        return svg(figure, name)


@contextmanager
def _drawing(name: str) -> Generator[tuple[Figure, Axes]]:
    """The reports' chart; a script that matplotlib's own font lacks is none of its business: the reader's fonts draw it."""
    with warnings.catch_warnings(), chart(name) as found:
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield found


def _names(axes: Axes, names: Sequence[str]) -> None:
    clipped = [name if len(name) <= LABEL else name[: LABEL - 1] + "…" for name in names]
    axes.set_yticks(range(len(names)), [visible(name) for name in clipped], parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _across(axes: Axes) -> None:
    """Numbers stand at the bars' ends: lines and ticks would say them again."""
    axes.grid(visible=False)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.spines["bottom"].set_visible(False)


def _thousands(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_amount))


def _length_axis(axes: Axes, edges: Sequence[float]) -> None:
    """One, two, five of each decade, or every step of a shorter axis: a log axis of less than a decade has no ticks of its own."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def inside(steps: Sequence[float]) -> list[float]:
        ticks = [step * 10.0**power for power in range(9) for step in steps]
        return [tick for tick in ticks if edges[0] <= tick <= edges[-1] and tick == round(tick)]

    ticks = inside((1, 2, 5))
    ticks = ticks if len(ticks) > 3 else inside((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
    ticks = ticks if len(ticks) > 1 else sorted({round(edges[0]), round(edges[-1])})
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 8]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_amount))


def _amount(value: float, _position: int) -> str:
    return units.as_text(round(value))
