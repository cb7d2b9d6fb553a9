"""A verdict passes exactly if every ruling does; an interval has to keep to the rule as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Budget
from tasks.core.verdict import Ruling, Verdict, of_likeness

NUMBERS = st.floats(-10, 10)
RULINGS = st.builds(
    lambda measured, below, above, direction, needed: Ruling(
        rule="r", measured=measured, low=measured - below, high=measured + above, direction=direction, needed=needed
    ),
    NUMBERS, st.floats(0, 5), st.floats(0, 5), st.sampled_from(["at most", "at least"]), NUMBERS,
)  # fmt: skip


@given(st.lists(RULINGS))
def test_every_ruling_counts(rulings: list[Ruling]) -> None:
    verdict = Verdict(format="f", made=True, rulings=tuple(rulings))
    assert verdict.passed == all(ruling.passed for ruling in rulings) == (not verdict.broken)
    assert not verdict.model_copy(update={"made": False}).passed
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


@given(RULINGS, st.floats(0, 5))
def test_a_wider_interval_never_helps(ruling: Ruling, more: float) -> None:
    assert ruling.low is not None and ruling.high is not None
    wider = ruling.model_copy(update={"low": ruling.low - more, "high": ruling.high + more})
    assert ruling.passed or not wider.passed


LIKE = {"perplexity": 1.01, "kl": 0.01, "kl_p99": 0.2, "agreement": 0.98}


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({}, []), ({"perplexity": 1.06}, ["perplexity"]), ({"kl": 0.06}, ["kl"]), ({"agreement": 0.94}, ["agreement"]),
        ({"kl": 1e4, "agreement": 0.0}, ["kl", "agreement"]),
    ],
)  # fmt: skip
def test_likeness_is_held_to_the_budget(changed: dict[str, float], broken: list[str]) -> None:
    rulings = of_likeness({**LIKE, **changed}, Budget())
    assert [ruling.rule for ruling in rulings] == ["perplexity", "kl", "agreement"], "kl_p99 is not asked"
    assert [ruling.rule for ruling in rulings if not ruling.passed] == broken


def test_what_was_not_measured_passes_no_rule() -> None:
    assert not any(ruling.passed for ruling in of_likeness({}, Budget()))


def test_a_rule_that_is_not_asked_is_not_ruled_on() -> None:
    nothing: dict[str, Any] = dict.fromkeys(Budget.model_fields)
    assert of_likeness(LIKE, Budget(**nothing)) == ()
