"""Refusals, loops and repeated answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Answers
from tasks.data.quality import answers
from tasks.data.quality.answers import Repeats
from tasks.data.rows import Message, Row, ToolCall

KEYS = st.lists(st.integers(0, 6))


def row(answer: str) -> Row:
    return Row(id="1", messages=(Message(role="user", content="q"), Message(role="assistant", content=answer)))


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't assist with that.", "I’m sorry, but I cannot help.", "Sorry, I can't do that.",
        "I'm sorry, but as an AI, I don't have the capability to book flights.",
        "As an AI language model, I have no opinions.", "As an AI, I don't have access to real-time data.",
        "I apologize, but I am unable to answer.", "\n I cannot provide that information.", "Unfortunately, I can't do it.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.", "Als KI-Sprachmodell habe ich keine Meinung.",
        "Leider kann ich Ihnen dabei nicht helfen.", "Je suis désolé, mais je ne peux pas répondre.",
        "En tant que modèle de langage, je n'ai pas d'avis.", "Lo siento, pero no puedo ayudarte.",
        "Como modelo de lenguaje, no tengo opiniones.", "对不起，我无法回答这个问题。", "很抱歉，我不能提供帮助。",
        "作为一个人工智能助手，我无法看到图片。", "我无法提供这些信息。",
    ],
)  # fmt: skip
def test_refusals(answer: str) -> None:
    found = answers.examine(row(answer), Answers(refusals="drop"))
    assert [(finding.rule, finding.action) for finding in found] == [("answers.refusals", "drop")]
    assert answers.examine(row(answer), Answers(refusals="ignore")) == []


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that. Please restart the hub.", "I'm sorry for the delay; your parcel is on its way.",
        "As an AI researcher, you should read this.", "Sorry about that! Here is the list.", "I can help you with that.",
        "The model said: I'm sorry, but I can't.", "Es tut mir leid, das zu hören.", "Désolé pour le retard.",
        "Lo siento mucho por tu pérdida.", "对不起，让您久等了。", "Unfortunately, the parcel is lost.", "",
    ],
)  # fmt: skip
def test_regret_is_no_refusal(answer: str) -> None:
    assert not answers.refuses(answer)


@pytest.mark.parametrize("answer", ["sorry " * 50_000, "as an ai " * 50_000, "!" * 300_000, "抱歉我" * 90_000])
@pytest.mark.timeout(120)  # the square of its length would take hours
def test_no_answer_takes_long(answer: str) -> None:
    answers.examine(row(answer), Answers())


@pytest.mark.parametrize("answer", ["the same again " * 20, "One line.\nOne line.\n" * 15, "好的谢谢" * 20, "a " * 500])
def test_loops(answer: str) -> None:
    assert [finding.rule for finding in answers.examine(row(answer), Answers())] == ["answers.loops"]


@pytest.mark.parametrize("answer", ["ha ha ha", " ".join(f"w{number}" for number in range(500)), "no\n" * 10, ""])
def test_ordinary_answers_are_no_loops(answer: str) -> None:
    assert answers.repeated(answer) == 0.0


@given(st.lists(st.sampled_from("abcdefg"), max_size=60))
def test_the_shortcut_of_loops_changes_nothing(words: list[str]) -> None:
    grams = [tuple(words[place : place + 5]) for place in range(len(words) - 4)]
    share = 1 - len(set(grams)) / len(grams) if len(words) >= 20 else 0.0
    found = answers.repeated(" ".join(words))
    assert (found > 0.5) == (share > 0.5)
    assert found in (0.0, pytest.approx(share))


def test_equal_answers_have_one_key() -> None:
    assert answers.key(row("Yes, it is.")) == answers.key(row("yes it  IS"))
    assert answers.key(row("Yes")) != answers.key(row("No"))
    assert answers.key(row("!")) != answers.key(row("?"))
    assert answers.key(row("好")) != answers.key(row("坏"))


def test_answers_of_tool_calls_differ_by_their_arguments() -> None:
    def call(city: str) -> Row:
        calls = (ToolCall(name="weather", arguments={"city": city}),)
        return Row(id="1", messages=(Message(role="user", content="q"), Message(role="assistant", tool_calls=calls)))

    assert answers.key(call("Bonn")) == answers.key(call("Bonn"))
    assert answers.key(call("Bonn")) != answers.key(call("Rome"))


@given(KEYS, KEYS, KEYS)
def test_counts_of_few_answers_are_exact_in_any_order(one: list[int], two: list[int], three: list[int]) -> None:
    parts = [Repeats.of(keys) for keys in (one, two, three)]
    assert (parts[0] + parts[1]) + parts[2] == parts[0] + (parts[1] + parts[2]) == Repeats.of([*one, *two, *three])
    assert Repeats.of(one).above(2) == {key: one.count(key) for key in set(one) if one.count(key) > 2}


def test_counts_of_many_answers_keep_their_bound() -> None:
    often = [7] * 300
    halves = [[*range(1000, 151_000), *often], [*range(500_000, 650_000), *often]]
    total = Repeats.of(halves[0]) + Repeats.of(halves[1])
    assert len(total.counts) <= 65_536
    assert total.lost <= 300_600 / 65_537
    assert 600 - total.lost <= total.above(20)[7] <= 600
    assert set(total.above(20)) == {7}
