"""Examination and its tally: order and grouping of the rows change nothing, personal data never shows."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Answers, Languages, Pii, Quality
from tasks.data.quality.examination import examine
from tasks.data.quality.finding import Finding
from tasks.data.quality.tally import EXAMPLES, Tally
from tasks.data.rows import Message, Row

STRICT = Quality(
    languages=Languages(action="drop", allowed=("en",)), answers=Answers(refusals="drop"), pii=Pii(action="redact")
)


def row(id: str, question: str = "q", answer: str = "a") -> Row:
    return Row(id=id, messages=(Message(role="user", content=question), Message(role="assistant", content=answer)))


Rows = list[tuple[Row, list[Finding]]]
FOUND = st.lists(
    st.tuples(
        st.integers(0, 20).map(lambda number: row(f"r{number:02}", f"question {number}")),
        st.lists(st.sampled_from([Finding("answers.loops", "report", "x"), Finding("lengths", "drop", "9 tokens")])),
    )
)


@given(FOUND, FOUND, FOUND, st.randoms())
def test_laws_of_addition(one: Rows, two: Rows, three: Rows, chance: Random) -> None:
    a, b, c = Tally.of(one), Tally.of(two), Tally.of(three)
    everything = [*one, *two, *three]
    chance.shuffle(everything)
    assert (a + b) + c == a + (b + c) == c + a + b == Tally.of(everything)
    assert a + Tally() == a
    assert Tally.model_validate_json(a.model_dump_json()) == a
    for found in a.rules.values():
        assert found.dropped <= found.found
        assert len(found.examples) == min(found.found, EXAMPLES)
        assert all(left.order <= right.order for left, right in pairwise(found.examples))


def test_examples_show_the_answer_or_the_question_without_personal_data() -> None:
    long = "My address is someone.rather.long@example.com and " * 5
    examined = examine(row("a", long, "I'm sorry, but I can't tell +49 30 1234567."), STRICT)
    assert examined.dropped
    rules = Tally.of([(row("a", long, "I'm sorry, but I can't tell +49 30 1234567."), examined.findings)]).rules
    assert list(rules) == ["answers.refusals", "pii.email", "pii.phone"]
    assert rules["answers.refusals"].examples[0].text == "I'm sorry, but I can't tell [PHONE]."
    assert rules["answers.refusals"].dropped == 1
    assert rules["pii.email"].dropped == 0
    assert rules["pii.email"].examples[0].text.startswith("My address is [EMAIL] and My")
    assert len(rules["pii.email"].examples[0].text) <= 120
    assert "someone" not in Tally(rules=rules).model_dump_json()


def test_a_row_without_findings_comes_back_itself() -> None:
    plain = row("a", "What is the meaning of this?", "It is what you make of it.")
    examined = examine(plain, STRICT)
    assert examined.row is plain
    assert examined.findings == ()
    assert not examined.dropped


def test_what_is_redacted_is_not_found_again() -> None:
    examined = examine(row("a", "mail me: a@b.de", "done"), STRICT)
    assert examined.row.messages[0].text == "mail me: [EMAIL]"
    assert examine(examined.row, STRICT).findings == ()
