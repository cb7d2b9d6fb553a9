"""The decision to train: a pure function of news, rules and time, that says in words why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.rules import TriggerParams
from tasks.data.readiness import News, decide, quiet

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
RULES = TriggerParams()


def news(rows: int = 10, first: float = 60, last: float = 30, drift: float | None = 0.0) -> News:
    """`first` and `last`: minutes ago."""
    return News(
        version="v3", rows=rows, first=NOW - timedelta(minutes=first), last=NOW - timedelta(minutes=last), drift=drift
    )


@pytest.mark.parametrize(
    ("given_", "rules", "due", "reason"),
    [
        (None, {}, False, "nothing has arrived since the last training"),
        (news(50), {}, True, "v3 brings 50 new rows, at least 50"),
        (news(49), {}, False, "v3 waits: 49 of 50 new rows, drift 0.000 of 0.2, for 60 min of 72 h"),
        (news(1, drift=0.3), {}, True, "v3 drifts by 0.300, more than 0.2"),
        (news(1, drift=0.3), {"drift": None}, False, "v3 waits: 1 of 50 new rows, for 60 min of 72 h"),
        (news(1, first=73 * 60), {}, True, "v3 has waited for 73 h, at least 72 h"),
        (news(500, last=9), {}, False, "v3 waits: rows still arrive, the last 9 min ago"),
        (news(500), {"quiet": ["08:00-18:30"]}, False, "v3 waits: 08:00-18:30 (UTC) are quiet hours"),
        (news(500), {"quiet": ["08:00-18:30"], "timezone": "Asia/Tokyo"}, True, "v3 brings 500 new rows, at least 50"),
    ],
)
def test_every_rule_decides_and_says_so(given_: News | None, rules: dict[str, object], due: bool, reason: str) -> None:
    decision = decide(given_, TriggerParams.model_validate(rules), NOW)
    assert (decision.due, decision.reason) == (due, reason)


FACTS = st.builds(
    news, rows=st.integers(0, 200), first=st.floats(0, 10_000), last=st.floats(0, 10_000), drift=st.floats(0, 1)
)


@given(FACTS, st.integers(0, 100), st.floats(0, 1), st.floats(0, 10_000))
def test_more_is_never_less(given_: News, rows: int, drift: float, minutes: float) -> None:
    more = given_.model_copy(
        update={
            "rows": given_.rows + rows, "drift": max(given_.drift or 0.0, drift),
            "first": given_.first - timedelta(minutes=minutes),
        }
    )  # fmt: skip
    assert decide(more, RULES, NOW).due >= decide(given_, RULES, NOW).due


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_a_span_and_its_complement_are_the_day(begin: int, end: int, minute: int) -> None:
    clock = [f"{at // 60:02d}:{at % 60:02d}" for at in (begin, end)]
    moment = datetime(2026, 6, 1, minute // 60, minute % 60, tzinfo=UTC)
    inside = [quiet(TriggerParams(quiet=(f"{one}-{other}",)), moment) for one, other in (clock, clock[::-1])]
    if begin == end:
        assert all(inside), "it ends where it begins: the whole day"
    else:
        assert sum(span is not None for span in inside) == 1


@pytest.mark.parametrize(
    "wrong", [{"quiet": ["8-18"]}, {"quiet": ["25:00-26:00"]}, {"timezone": "Middle/Earth"}, {"rows": 0}]
)
def test_rules_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TriggerParams.model_validate(wrong)
