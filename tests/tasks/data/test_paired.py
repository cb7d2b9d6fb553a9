"""The paired bootstrap: exact where nothing differs, and near the normal interval where there are many rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import paired

VALUES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


@given(VALUES)
def test_the_interval_holds_the_mean_and_is_the_same_each_time(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    mean, low, high = paired.difference(first, second)
    assert low - 1e-12 <= mean <= high + 1e-12
    assert paired.difference(first, second) == (mean, low, high)
    assert paired.difference(first, first) == (0, 0, 0)


def test_on_many_rows_it_is_the_normal_interval() -> None:
    draw = np.random.default_rng(3)
    first, second = draw.random(4000), draw.random(4000) - 0.1
    mean, low, high = paired.difference(first.tolist(), second.tolist())
    spread = 1.96 * (second - first).std() / np.sqrt(4000)
    np.testing.assert_allclose([low, high], [mean - spread, mean + spread], atol=0.05 * spread)
