"""How often rows are seen: once by default, as weighted otherwise, and growth moves no choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Mixing
from tasks.data import mixing


def mix(sizes: list[int], weights: float = 1.0, **params: object) -> tuple[mixing.Mixed, np.ndarray]:
    names = tuple("abcdef"[: len(sizes)])
    sources = np.repeat(np.arange(len(sizes)), sizes)
    points = np.random.default_rng(3).random(len(sources))
    row_weights = np.full(len(sources), weights)
    return mixing.mix(sources, names, points, row_weights, Mixing.model_validate(params)), sources


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_by_default_every_row_is_seen_once(sizes: list[int]) -> None:
    mixed, _ = mix(sizes)
    assert (mixed.copies == 1).all() and mixed.capped == {}


def test_a_weight_is_the_expected_number_of_times() -> None:
    mixed, sources = mix([10_000, 10_000], sources={"a": {"weight": 0.3}, "b": {"weight": 2.5}})
    means = [mixed.copies[sources == place].mean() for place in (0, 1)]
    assert means == pytest.approx([0.3, 2.5], abs=0.02)
    assert set(mixed.copies[sources == 1]) == {2, 3}


def test_weight_zero_leaves_a_source_out_and_a_row_s_own_weight_counts() -> None:
    mixed, sources = mix([100, 100], weights=2.0, sources={"a": {"weight": 0}})
    assert not mixed.copies[sources == 0].any() and (mixed.copies[sources == 1] == 2).all()


def test_a_cap_keeps_that_many() -> None:
    mixed, sources = mix([100, 30], sources={"a": {"cap": 40}})
    assert mixed.copies[sources == 0].sum() == 40 and mixed.copies[sources == 1].sum() == 30
    assert mixed.capped == {"a": 60}


def test_a_higher_temperature_makes_shares_more_equal_and_keeps_the_size() -> None:
    shares = []
    for temperature in (1.0, 2.0, 100.0):
        mixed, sources = mix([9_000, 1_000], temperature=temperature)
        assert mixed.copies.sum() == pytest.approx(10_000, rel=0.02)
        shares.append(mixed.copies[sources == 1].sum() / mixed.copies.sum())
    assert shares == pytest.approx([0.1, 0.25, 0.5], abs=0.01)  # 1/10; 1/(1 + sqrt 9); nearly equal


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 40))
def test_growth_takes_a_row_out_of_a_cap_only_for_one_of_a_smaller_hash(before: int, more: int, cap: int) -> None:
    points = np.random.default_rng(before).random(before + more)
    params = Mixing.model_validate({"sources": {"a": {"cap": cap}}})

    def kept(count: int) -> set[float]:
        zeros = np.zeros(count, dtype=np.int64)
        return set(points[:count][mixing.mix(zeros, ("a",), points[:count], np.ones(count), params).copies > 0])

    small, large = kept(before), kept(before + more)
    assert (large & set(points[:before])) <= small
    assert len(large) == min(cap, before + more)
