"""Which tokens of many conversations carry loss, from where the answers stand in their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.encoder import Coded
from tasks.data.template import Rendered


@dataclass(frozen=True)
class Masked:
    """`loss[i]` belongs to `Coded.ids[i]`; `endless` are the numbers of texts in which an answer has no end-of-turn."""

    loss: NDArray[np.bool_]
    endless: frozenset[int]


def mark(coded: Coded, texts: Sequence[Rendered], is_end: NDArray[np.bool_]) -> Masked:
    """Loss for each token that lies wholly within an answer, up to the token that ends the turn.

    A generation block carries loss whole, as its author wrote it; if it stops short of the end-of-turn token that
    follows it, that token is taken in. `is_end[id]` says which ids end a turn.
    """
    spans = [(number, *span) for number, text in enumerate(texts) if coded.exact[number] for span in text.answers]
    numbers = np.array([number for number, _, _ in spans], dtype=np.int64)
    low = _tokens(coded.firsts, [coded.place(n, texts[n].text, start) for n, start, _ in spans], "left")
    high = _tokens(coded.lasts, [coded.place(n, texts[n].text, end) for n, _, end in spans], "right")
    ends = np.flatnonzero(is_end[coded.ids])
    last = np.concatenate(([-1], ends))[np.searchsorted(ends, high)]
    blocks = np.array([texts[n].blocks for n in numbers.tolist()], dtype=np.bool_)
    follows = blocks & (last < low) & np.append(is_end[coded.ids], False)[high] & (high < coded.stops[numbers])
    stop = np.where(follows, high + 1, np.where(blocks, high, last + 1))
    endless = (last < low) & ~follows
    edges = np.zeros(len(coded.ids) + 1, dtype=np.int64)
    np.add.at(edges, low[~endless], 1)
    np.add.at(edges, stop[~endless], -1)
    return Masked(np.cumsum(edges[:-1]) > 0, frozenset(numbers[endless].tolist()))


def _tokens(line: NDArray[np.int64], places: list[int], side: str) -> NDArray[np.int64]:
    """Numbers of the first tokens at or beyond the places."""
    return np.searchsorted(line, np.array(places, dtype=np.int64), side="left" if side == "left" else "right")
