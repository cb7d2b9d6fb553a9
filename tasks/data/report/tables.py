"""A comparison as text: aligned for a terminal, or as a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import wcwidth

from tasks.data.report import units
from tasks.data.report.columns import Column
from tasks.data.report.comparison import Comparison, Row, best

WIDTH = 120
CELL = 40
"""Cells a label may take; longer ones are cut, so that one odd name can't push the numbers out of sight."""
GAP = "  "


def as_text(comparison: Comparison) -> str:
    """An aligned table for a terminal; columns that don't fit follow in a further block, and last the notes.

    Laws: no line is wider than 120 cells; within a block each column ends at the same cell, wide scripts included.
    """
    targets = ["target", *(row.target for row in comparison.rows)]
    columns = [[column.label, *_shown(comparison, column)] for column in comparison.columns]
    head, *rest = [[_one_line(cell) for cell in cells] for cells in (targets, *columns)]
    blocks = ["\n".join(_lines(head, block)) for block in _blocks(_width(head), rest)]
    notes = [
        line
        for row in comparison.rows
        if row.note
        for line in wcwidth.wrap(f"{_one_line(row.target)}: {_plain(row.note)}", WIDTH, subsequent_indent=GAP)
    ]
    return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else [])])


def _shown(comparison: Comparison, column: Column) -> list[str]:
    return [units.as_text(row.values[column.key], column.unit) for row in comparison.rows]


def _one_line(text: str) -> str:
    plain = _plain(text)
    return plain if wcwidth.width(plain) <= CELL else wcwidth.clip(plain, 0, CELL - 1).rstrip() + "…"


def _plain(text: str) -> str:
    """Control characters out: a name can't move the cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _width(cells: Sequence[str]) -> int:
    return max(map(wcwidth.width, cells))


def _blocks(head: int, columns: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    block: list[Sequence[str]] = []
    used = head
    for cells in columns:
        needed = len(GAP) + _width(cells)
        if used + needed > WIDTH:
            yield block
            block, used = [], head
        block.append(cells)
        used += needed
    yield block


def _lines(head: Sequence[str], block: Sequence[Sequence[str]]) -> Iterator[str]:
    padded = [[wcwidth.rjust(cell, _width(cells)) for cell in cells] for cells in block]
    for target, *cells in zip(head, *padded, strict=True):
        yield GAP.join((wcwidth.ljust(target, _width(head)), *cells))


def as_markdown(comparison: Comparison) -> str:
    """A GitHub table, the best value of a column bold, the notes below it, and what each target costs in a table of its own."""
    quality, efficiency = comparison.quality, comparison.efficiency
    notes = [f"- **{escape(row.target)}**: {escape(row.note)}\n" for row in comparison.rows if row.note]
    parts = [_table(quality), "".join(notes), _table(efficiency) if efficiency else ""]
    return "\n".join(filter(None, parts))


def _table(comparison: Comparison) -> str:
    head = ["Target", *(escape(column.label) for column in comparison.columns)]
    lines = [head, [":---", *("---:" for _ in comparison.columns)]]
    lines += [
        [escape(row.target), *(_cell(comparison, row, column) for column in comparison.columns)]
        for row in comparison.rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(comparison: Comparison, row: Row, column: Column) -> str:
    value = row.values[column.key]
    text = units.as_text(value, column.unit)
    return f"**{text}**" if value is not None and value == best(comparison, column) else text


def escape(text: str) -> str:
    """Foreign text as Markdown shows it: one line, no markup, no HTML, no table cell."""
    return re.sub(r"([\\`*_\[\]|<>&~$])", r"\\\1", " ".join(text.split()))
