"""Preferences: what two orders come to, and what is read as a choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import ParamsError
from tasks.data import preference
from tasks.data.preference import Choice

CHOICES = st.sampled_from(["A", "B", "tie", None])
SWAPPED: dict[Choice | None, Choice | None] = {"A": "B", "B": "A", "tie": "tie", None: None}


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("A", "B", 1), ("B", "A", 0), ("tie", "tie", 0.5),
        ("A", "A", 0.5), ("B", "B", 0.5), ("A", "tie", 0.5), ("tie", "A", 0.5),
        (None, "B", None), ("A", None, None),
    ],
)  # fmt: skip
def test_a_preference_counts_where_both_orders_agree(first: Choice, second: Choice, value: float | None) -> None:
    assert preference.decide([(first, second)]).values == (value,)


@given(st.lists(st.none() | st.tuples(CHOICES, CHOICES)))
def test_judging_the_reference_against_the_answer_is_the_rest_of_1(
    rows: list[tuple[Choice | None, Choice | None] | None],
) -> None:
    one = preference.decide(rows)
    other = preference.decide([row and (row[1], row[0]) for row in rows])
    assert other.values == tuple(None if value is None else 1 - value for value in one.values)
    assert (one.asked, one.unread, one.contradicted) == (other.asked, other.unread, other.contradicted)
    assert one.asked == sum(row is not None for row in rows) and one.unread == one.values.count(None)
    assert one.position_bias is None or 0 <= one.position_bias <= 1


@given(st.lists(st.sampled_from(["A", "B"]), min_size=1))
def test_who_always_takes_the_first_prefers_nothing_and_is_all_bias(letters: list[Choice]) -> None:
    found = preference.decide([(letter, letter) for letter in letters])
    assert found.position_bias == 1 and set(found.values) == {0.5}


@pytest.mark.parametrize("reply", ["A", " B\n", "tie"])
def test_one_word_is_read(reply: str) -> None:
    assert preference.parse(reply) == reply.strip()


@pytest.mark.parametrize("reply", ["", "a", "A.", "Answer A", "**B**", "TIE", "A or B", '{"better": "A"}'])
def test_anything_else_is_not(reply: str) -> None:
    assert preference.parse(reply) is None


@given(st.text(), st.text(), st.text())
def test_what_an_answer_holds_is_not_filled_in_again(request: str, a: str, b: str) -> None:
    text = preference.question("{request}|{a}|{b}", request + "{a}", a + "{b}{request}", b + "{a}")
    assert text == f"{request}{{a}}|{a}{{b}}{{request}}|{b}{{a}}"


def test_a_prompt_names_the_request_and_both_answers() -> None:
    preference.check(preference.PROMPT)
    with pytest.raises(ParamsError, match=r"evaluate\.judge\.prompt: it lacks \{b\}"):
        preference.check("{request} {a}")
