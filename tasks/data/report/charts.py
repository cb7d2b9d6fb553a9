"""Curves as inline SVG. Law: equal numbers give equal bytes.

matplotlib draws in stand-in colours, which become the page's CSS variables, so that a chart follows light and dark.
"""

# matplotlib's own stubs leave **kwargs without a type, so each of its drawing methods is partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import base64
import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.data.report import units
from tasks.data.report.training import History, Point, Ranks, smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import BboxBase

INK, MUTED, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second"}
SVG = "http://www.w3.org/2000/svg"
"""A file of its own must name its format; inline in HTML it needs not, and the page stays free of addresses."""
STANDALONE = {
    "--ink": "#8b95a1",
    "--muted": "#8b95a1",
    "--line": "#8b95a1",
    "--first": "#3b82c4",
    "--second": "#e08a2c",
}
SIZE = (5.6, 3.7)
"""Inches, 72 units each: small enough that the labels stay readable on a phone."""
SMOOTH_FROM = 40
"""Steps from which single losses hide the trend."""
PLACES = ((8, 0, "left"), (-8, 0, "right"), *((8, 12 * lines, "left") for lines in (1, -1, 2, -2, 3, -3)))
"""Where a name may stand from its dot, in points, and which of its ends is there."""


@dataclass(frozen=True)
class Dot:
    """A target by its size in bytes and its quality."""

    target: str
    size: float
    quality: float


def loss_curves(history: History) -> str:
    """Loss over optimizer steps; on long runs the mean of neighbouring steps in front of the single ones."""
    from matplotlib.ticker import MaxNLocator

    with chart("loss") as (figure, axes):
        over = max(1, len(history.train) // 20) if len(history.train) >= SMOOTH_FROM else 1
        if over > 1:
            _curve(axes, history.train, "training, each step", FIRST, linewidth=0.8, alpha=0.4)
            _curve(axes, smoothed(history.train, over), f"training, mean of {over // 2 * 2 + 1} steps", FIRST)
        else:
            _curve(axes, history.train, "training", FIRST, marker="o", markersize=3)
        if history.valid:
            _curve(axes, history.valid, "validation", SECOND, marker="s", markersize=5, linestyle="--")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats a token")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.08 * max(point.loss for point in (*history.train, *history.valid)) or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, labelcolor=INK)
        return svg(figure, "loss")


def _curve(axes: Axes, points: Sequence[Point], label: str, color: str, **style: Any) -> None:
    xs, ys = [point.step for point in points], [point.loss for point in points]
    axes.plot(xs, ys, label=label, color=color, **style)


def effective_ranks(ranks: Sequence[Ranks]) -> str:
    """The effective rank of B A over optimizer steps."""
    from matplotlib.ticker import MaxNLocator

    with chart("ranks") as (figure, axes):
        steps = [each.step for each in ranks]
        axes.plot(steps, [each.effective_rank for each in ranks], "-o", color=FIRST, label="mean over the layers")
        axes.plot(steps, [each.effective_rank_min for each in ranks], "--s", color=SECOND, label="lowest layer")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("effective rank of B A")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.08 * max(each.effective_rank for each in ranks))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, labelcolor=INK)
        return svg(figure, "ranks")


def as_image(svg: str) -> str:
    """The chart as a data URI for a page that is not ours."""
    return "data:image/svg+xml;base64," + base64.b64encode(alone(svg).encode()).decode()


def alone(svg: str) -> str:
    """The chart as a file of its own: no variables, colours that read on light and on dark."""
    plain = re.sub(r"var\((--\w+)\)", lambda match: STANDALONE[match[1]], svg)
    return plain.replace(
        "<svg ", f'<svg xmlns="{SVG}" width="{SIZE[0] * 120}" height="{SIZE[1] * 120}" font-family="sans-serif" ', 1
    )


def quality_against_size(dots: Sequence[Dot], label: str, unit: units.Unit) -> str:
    """Each target where its size and its quality put it, named beside its dot."""
    with chart("size") as (figure, axes):
        axes.set_xscale("log")
        axes.plot(
            [dot.size for dot in dots],
            [dot.quality for dot in dots],
            "o",
            color=FIRST,
            markersize=7,
            clip_on=False,
            zorder=3,
        )
        axes.set_xlabel("size, log scale")
        axes.set_ylabel(label, parse_math=False)
        axes.margins(0.18, 0.15)
        _size_axis(axes, [dot.size for dot in dots])
        if unit == "share":
            _share_axis(axes, max(dot.quality for dot in dots))
        figure.draw_without_rendering()
        _name(axes, dots)
        return svg(figure, "size")


def _size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """One, two, five of each decade around the sizes; a log axis of less than a decade has no ticks of its own."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(sizes) / 2, max(sizes) * 2
    every = [step * 10.0**power for power in range(15) for step in (1, 2, 5)]
    inside = [tick for tick in every if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(inside[:: 1 + len(inside) // 6]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_size))


def _share_axis(axes: Axes, highest: float) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, min(1.0, 1.15 * highest) or 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def _size(value: float, _position: int) -> str:
    return units.as_text(value, "bytes")


def _name(axes: Axes, dots: Sequence[Dot]) -> None:
    """Names beside the dots, each in the first place that is free; the caption has those for which there is none."""
    taken: list[BboxBase] = []
    for dot in sorted(dots, key=lambda dot: (dot.quality, dot.size, dot.target)):
        for x, y, side in PLACES:
            text = axes.annotate(
                dot.target, (dot.size, dot.quality), (x, y), textcoords="offset points", ha=side, va="center",
                color=INK, parse_math=False,
            )  # fmt: skip
            box = text.get_window_extent()
            if axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


@contextmanager
def chart(name: str) -> Generator[tuple[Figure, Axes]]:
    """A figure without pyplot's global state, in the page's restrained manner whatever the user's matplotlibrc says."""
    from matplotlib.figure import Figure
    from matplotlib.style import context

    settings: dict[str, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": name, "lines.linewidth": 1.8, "font.size": 11,
        "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
        "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
        "grid.color": LINE, "grid.linewidth": 0.6, "axes.axisbelow": True,
    }  # fmt: skip
    with context(["default", settings]):
        figure = Figure(figsize=SIZE, layout="constrained")
        yield figure, figure.subplots()


def svg(figure: Figure, name: str) -> str:
    """The bare element: no prolog, namespace, fixed size or font of its own; ids unique in a page of several charts.

    The page describes it in its elements `<name>-title` and `<name>-summary`.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = re.sub(r"^.*?(?=<svg )", "", buffer.getvalue(), flags=re.DOTALL)
    label = f'role="img" aria-labelledby="{name}-title {name}-summary"'
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg \1 {label}>", text, count=1)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text).replace("xlink:href", "href")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found[0]]})", text)
