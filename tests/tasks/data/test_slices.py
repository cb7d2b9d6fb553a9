"""Parts of the test rows: laws."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import slices
from tasks.data.slices import Judged

figures = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)
rows = st.builds(
    Judged,
    tags=st.lists(st.sampled_from(["mail", "chat", "typos"]), max_size=3).map(tuple),
    prompt=st.integers(0, 12),
    reference=st.integers(0, 5000),
    values=st.fixed_dictionaries(
        {"exact_match": st.sampled_from([0.0, 1.0]), "json_fields": figures, "macro_f1": figures}
    ),
)
many = st.lists(rows, min_size=1, max_size=40)


@settings(max_examples=60)
@given(many)
def test_quarters_are_a_partition_and_equal_lengths_share_one(each: list[Judged]) -> None:
    found = slices.parts(each)
    for kind, length in (("prompt length", "prompt"), ("reference length", "reference")):
        quarters = [places for (other, _), places in found.items() if other == kind]
        assert 1 <= len(quarters) <= 4
        assert sorted(place for places in quarters for place in places) == list(range(len(each)))
        ranges = [[getattr(each[place], length) for place in places] for places in quarters]
        assert all(max(short) < min(long) for short, long in pairwise(ranges))
    for (kind, name), places in found.items():
        if kind == "tag":
            assert places == [place for place, row in enumerate(each) if name in row.tags]


@settings(max_examples=60)
@given(many)
def test_the_parts_of_a_partition_make_the_whole(each: list[Judged]) -> None:
    whole = sum(row.values["exact_match"] or 0 for row in each) / len(each)
    for kind in ("prompt length", "reference length"):
        own = [part for part in slices.of(each) if part.kind == kind]
        assert sum(part.rows for part in own) == len(each)
        mean = sum(part.rows * part.metrics["exact_match"].mean for part in own) / len(each)
        assert mean == pytest.approx(whole)


@settings(max_examples=60)
@given(many, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(each: list[Judged], chance: random.Random) -> None:
    shuffled = list(each)
    chance.shuffle(shuffled)
    assert slices.of(each) == slices.of(shuffled)


@settings(max_examples=60)
@given(many)
def test_intervals_hold_their_means_and_rows_without_a_value_are_left_out(each: list[Judged]) -> None:
    for part in slices.of(each):
        assert "macro_f1" not in part.metrics
        for figure in part.metrics.values():
            assert 0 <= figure.low <= figure.high <= 1
            assert 1 <= figure.rows <= part.rows
        exact = part.metrics["exact_match"]
        assert exact.rows == part.rows
        assert (exact.low == exact.high) == (exact.mean in (0, 1)) or part.rows > 1


@settings(max_examples=60)
@given(many)
def test_the_worst_are_large_enough_and_lowest_first(each: list[Judged]) -> None:
    parts = slices.of(each)
    worst = slices.worst(parts, "exact_match", 3)
    means = [part.metrics["exact_match"].mean for part in worst]
    assert means == sorted(means) and all(part.rows >= slices.FEWEST for part in worst)
    large = [part.metrics["exact_match"].mean for part in parts if part.rows >= slices.FEWEST]
    assert slices.lowest(each, "exact_match") == pytest.approx(min(large) if large else None)
    assert (means[0] if means else None) == pytest.approx(min(large) if large else None)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """100 samples of 60 rows from a coin that falls 0.3 of the time."""
    chance, held = random.Random(7), 0
    for _ in range(100):
        each = [Judged(("all",), 1, 1, {"exact_match": float(chance.random() < 0.3)}) for _ in range(60)]
        (figure,) = (part.metrics["exact_match"] for part in slices.of(each) if part.kind == "tag")
        held += figure.low <= 0.3 <= figure.high
    assert 87 <= held <= 100
