"""Splits move no row when others arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Splits
from tasks.data import splits


@given(st.lists(st.text(), unique=True, min_size=1), st.floats(0, 0.4), st.floats(0, 0.4))
def test_adding_rows_moves_none(groups: list[str], valid: float, test: float) -> None:
    shares = Splits(valid=valid, test=test)
    alone = {group: splits.place(group, shares, "salt") for group in groups}
    assert all(splits.place(group, shares, "salt") == place for group, place in reversed(alone.items()))


def test_shares_are_kept() -> None:
    places = [splits.place(str(number), Splits(valid=0.1, test=0.2), "salt") for number in range(10_000)]
    assert abs(places.count("test") - 2000) < 200
    assert abs(places.count("valid") - 1000) < 150


def test_a_larger_share_takes_no_row_out_of_the_test_split() -> None:
    for number in range(1000):
        if splits.place(str(number), Splits(test=0.1), "s") == "test":
            assert splits.place(str(number), Splits(test=0.3), "s") == "test"


def test_another_salt_is_another_draw() -> None:
    shares = Splits(valid=0.1, test=0.4)
    places = [[splits.place(str(number), shares, salt) for number in range(200)] for salt in ("a", "b")]
    assert places[0] != places[1]
