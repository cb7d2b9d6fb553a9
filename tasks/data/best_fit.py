"""Which rows share a pack: best fit, decreasing, in windows, so that memory does not grow with the corpus.

Best fit decreasing wastes at most 11/9 of the optimum (Johnson 1974); Ding et al. 2024 (arXiv:2404.10830) use it for
language models, where concatenating and cutting harms the rows that are cut. No row is cut here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WINDOW = 8_192
"""Rows packed together: larger windows fill no better once there are hundreds of rows a pack size."""


def plan(rows: np.ndarray, lengths: np.ndarray, budget: int) -> Iterator[list[int]]:
    """The packs, as lists of row numbers, of `rows` (some of them twice or more); `lengths` counts every row's tokens.

    Laws: each entry of `rows` is in exactly one pack; a pack has at most `budget` tokens, or is one longer row.
    """
    for start in range(0, len(rows), WINDOW):
        window = rows[start : start + WINDOW]
        yield from _best_fit(window, lengths[window], budget)


def _best_fit(rows: np.ndarray, lengths: np.ndarray, budget: int) -> Iterator[list[int]]:
    open_by_room: dict[int, list[list[int]]] = {}
    rooms = 0  # bit r is set where an open pack has room for exactly r more tokens
    packs: list[list[int]] = []
    for place in np.argsort(-lengths, kind="stable"):
        row, length = int(rows[place]), int(lengths[place])
        fitting = rooms >> length
        if length >= budget or not fitting:
            pack, room = [row], budget - length
            packs.append(pack)
        else:
            found = length + (fitting & -fitting).bit_length() - 1
            pack = open_by_room[found].pop()
            pack.append(row)
            rooms &= ~(1 << found) if not open_by_room[found] else -1
            room = found - length
        if room > 0:
            open_by_room.setdefault(room, []).append(pack)
            rooms |= 1 << room
    yield from packs
