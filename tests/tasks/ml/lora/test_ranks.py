"""Ranks shared out by importance: a pure function and its laws."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.core.errors import ParamsError
from tasks.ml.lora.ranks import share_out

IMPORTANCE = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.floats(0, 1e3), min_size=1, max_size=12)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, int], dict[str, int], int, float]:
    importance = draw(IMPORTANCE)
    costs = {name: draw(st.integers(1, 50)) for name in importance}
    caps = {name: draw(st.integers(1, 40)) for name in importance}
    rank = draw(st.integers(1, 16))
    budget = draw(st.floats(1, 3)) * sum(costs.values()) * draw(st.sampled_from([1, rank]))
    return importance, costs, caps, rank, budget


@given(cases())
def test_the_budget_is_kept_and_every_layer_has_a_rank(
    case: tuple[dict[str, float], dict[str, int], dict[str, int], int, float],
) -> None:
    importance, costs, caps, rank, budget = case
    ranks = share_out(importance, costs, caps, rank, budget)
    assert ranks.keys() == importance.keys()
    assert all(1 <= ranks[name] <= max(1, caps[name]) for name in ranks)
    assert sum(costs[name] * ranks[name] for name in ranks) <= budget


@given(cases())
def test_more_important_is_no_lower(
    case: tuple[dict[str, float], dict[str, int], dict[str, int], int, float],
) -> None:
    importance, costs, _, rank, budget = case
    ranks = share_out(importance, costs, dict.fromkeys(importance, 24), rank, budget)
    order = sorted(importance, key=lambda name: importance[name])
    for less, more in pairwise(order):
        assert ranks[less] <= ranks[more]
        if importance[less] == importance[more]:
            assert ranks[less] == ranks[more]


@given(IMPORTANCE, st.integers(1, 16), st.integers(1, 40))
def test_with_budget_enough_the_formula_holds(importance: dict[str, float], rank: int, cap: int) -> None:
    largest = max(importance.values())
    assume(largest > 0)
    ranks = share_out(importance, dict.fromkeys(importance, 1), dict.fromkeys(importance, cap), rank, 1e9)
    assert ranks == {name: min(int(rank * (1 + value / largest)), cap) for name, value in importance.items()}


def test_what_matters_gets_more_of_the_same_budget() -> None:
    importance = {"attention": 1.0, "mlp": 0.1, "idle": 0.0}
    ranks = share_out(importance, dict.fromkeys(importance, 100), dict.fromkeys(importance, 16), 8, 8 * 300)
    assert ranks == {"attention": 12, "mlp": 6, "idle": 6}


def test_a_budget_below_rank_one_is_refused() -> None:
    with pytest.raises(ParamsError, match="rank 1 everywhere takes 30"):
        share_out({"a": 1.0, "b": 1.0}, {"a": 10, "b": 20}, {"a": 4, "b": 4}, 4, 29.0)
