"""Packing loses no row, overfills no pack, and fills them well."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import best_fit


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 256), st.integers(1, 50), st.randoms())
def test_every_row_is_in_one_pack_and_none_is_overfull(
    lengths: list[int], budget: int, window: int, draw: object
) -> None:
    sizes = np.array(lengths)
    rows = np.array(draw.choices(range(len(lengths)), k=len(lengths)))  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_fit, "WINDOW", window)
        packs = list(best_fit.plan(rows, sizes, budget))
    assert Counter(row for pack in packs for row in pack) == Counter(rows.tolist())
    assert all(sizes[pack].sum() <= budget or len(pack) == 1 for pack in packs)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_it_is_best_fit_decreasing(lengths: list[int]) -> None:
    """Against the definition, written plainly."""
    wanted: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        open_ = [pack for pack in wanted if sum(pack) + length <= 64]
        if open_:
            max(open_, key=sum).append(length)
        else:
            wanted.append([length])
    sizes = np.array(lengths)
    found = [sorted(sizes[pack].tolist()) for pack in best_fit.plan(np.arange(len(lengths)), sizes, 64)]
    assert len(found) == len(wanted)
    assert sorted(map(sum, found)) == sorted(map(sum, wanted))


def test_ordinary_lengths_fill_their_packs() -> None:
    sizes = np.random.default_rng(1).lognormal(4.5, 0.6, 5_000).astype(int).clip(8, 1024)
    packs = list(best_fit.plan(np.arange(5_000), sizes, 1024))
    assert sizes.sum() / (len(packs) * 1024) > 0.99
