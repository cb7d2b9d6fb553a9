"""Tables for a terminal that are Markdown at the same time, and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.measuring.figures import Figure


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned table: the first column to the left, numbers to the right. Law: all its lines are equally wide."""
    align = ["left", *["right"] * (len(head) - 1)]
    safe = [[_one_cell(text) for text in row] for row in rows]
    return f"{title}\n\n" + tabulate(safe, list(head), tablefmt="pipe", colalign=align, disable_numparse=True)


def _one_cell(text: str) -> str:
    """A bar would end the cell, a line break the row, and a control character would move the cursor."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.split()).replace("|", "/")


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}" if abs(value) >= 0.9995 else f"{value:.3f}"


def spread(figure: Figure, scale: float = 1.0) -> str:
    """The median, and the lowest and highest round where they differ."""
    middle, low, high = (number(value / scale) for value in (figure.median, figure.low, figure.high))
    return middle if low == high else f"{middle} ({low} to {high})"
