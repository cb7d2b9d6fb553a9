"""Plots of growth, as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZE = (6.0, 3.6)


def draw(file: Path, name: str, unit: str, points: Mapping[int, tuple[float, float]]) -> None:
    """Tokens a second and peak memory against what grows, both from zero, so that flat looks flat."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=SIZE, dpi=120, layout="constrained")
    speed: Any = figure.add_subplot()
    memory = speed.twinx()
    values = list(points)
    lines = [
        *speed.plot(values, [rate for rate, _ in points.values()], "o-", color="#1b6ca8", label="tokens/s"),
        *memory.plot(values, [peak / 1e3 for _, peak in points.values()], "s--", color="#b5651d", label="peak GB"),
    ]
    speed.set_xscale("log")
    speed.set_xticks(values, [f"{value:,}" for value in values])
    speed.minorticks_off()
    speed.set_xlabel(f"{name}, {unit}" if unit else name)
    speed.set_ylabel("tokens/s")
    memory.set_ylabel("peak GB")
    for axis in (speed, memory):
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    speed.grid(axis="y", alpha=0.3)
    speed.legend(handles=lines, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
