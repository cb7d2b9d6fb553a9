"""Numbers by row and column as colours, each an SVG file of its own. Law: equal numbers give equal bytes."""

# matplotlib's own stubs leave **kwargs without a type, so each of its drawing methods is partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape

from tasks.data.report import charts

MOST_TICKS = 12
LAYER = re.compile(r"\.(\d+)\.")


def by_layer(name: str, title: str, values: Mapping[str, float | None]) -> str | None:
    """Values of `model.layers.7.self_attn.q_proj.weight` and the like: a row a kind of module, a column a layer.

    None: no tensor has a layer's number in its name. Tensors without one are left out.
    """
    numbered = [(int(found[1]), LAYER.sub(".*.", key, count=1), key) for key in values if (found := LAYER.search(key))]
    if not numbered:
        return None
    kinds = list(dict.fromkeys(kind for _, kind, _ in numbered))
    numbers = range(max(number for number, _, _ in numbered) + 1)
    cells = {(kind, number): values[key] for number, kind, key in numbered}
    grid = [[cells.get((kind, number)) for number in numbers] for kind in kinds]
    return draw(name, title, grid, [short(kind) for kind in kinds], list(map(str, numbers)), ("", "layer"))


def short(kind: str) -> str:
    """The module's own name: `q_proj` of `model.layers.*.self_attn.q_proj.weight`, `q_proj.bias` of its bias."""
    name, _, end = kind.rpartition(".")
    module = name.rpartition(".")[2]
    return module if end == "weight" else f"{module}.{end}"


def draw(
    name: str, title: str, grid: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str],
    axis: tuple[str, str], limits: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """`axis` names rows and columns; cells without a number stay empty."""
    with charts.chart(name) as (figure, axes):
        cells = [[math.nan if value is None else value for value in row] for row in grid]
        low, high = limits or (None, None)
        mesh = axes.pcolormesh(cells, vmin=low, vmax=high, cmap="viridis")
        axes.invert_yaxis()
        axes.grid(False)
        for which, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
            shown = range(0, len(names), 1 + (len(names) - 1) // MOST_TICKS)
            which.set_ticks([place + 0.5 for place in shown], [names[place] for place in shown])
        axes.set_ylabel(axis[0])
        axes.set_xlabel(axis[1])
        axes.set_title(title, color=charts.INK, fontsize=11)
        bar = figure.colorbar(mesh, ax=axes)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        drawn = charts.alone(charts.svg(figure, name))
        return drawn.replace(f'aria-labelledby="{name}-title {name}-summary"', f'aria-label="{escape(title)}"', 1)
