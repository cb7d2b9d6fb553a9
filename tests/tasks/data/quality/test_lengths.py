"""Tukey's fences, against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Lengths
from tasks.data.quality import lengths

LENGTHS = st.lists(st.integers(0, 300))


@given(LENGTHS.filter(bool), st.sampled_from([1.5, 3.0]))
def test_the_fences_are_tukeys(found: list[int], quartiles: float) -> None:
    first, third = np.quantile(found, [0.25, 0.75], method="inverted_cdf")
    reach = quartiles * max(third - first, 1)
    assert lengths.fences(lengths.histogram(found), quartiles) == (first - reach, third + reach)


def test_without_rows_nothing_is_outside() -> None:
    assert lengths.fences(lengths.histogram([]), 3.0) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("tokens", "outside"), [(50, False), (53, False), (54, True), (47, False), (46, True), (5000, True)]
)
def test_equal_lengths_have_room_for_their_neighbours(tokens: int, outside: bool) -> None:
    fences = lengths.fences(lengths.histogram([50] * 100), 3.0)
    assert bool(lengths.examine(tokens, fences, Lengths(action="drop"))) == outside
    assert lengths.examine(tokens, fences, Lengths(action="ignore")) == []


def test_the_detail_says_what_is_ordinary() -> None:
    (finding,) = lengths.examine(99, lengths.Fences(-3.0, 40.0), Lengths(action="report"))
    assert (finding.rule, finding.action, finding.detail) == ("lengths", "report", "99 tokens; ordinary are 0 to 40")
