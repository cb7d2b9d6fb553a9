"""Leaked test texts are caught; what rows share by their nature is not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.quality.contamination import COMMON_TRAIN, SHARE, Grams, Hits, Index, Leaks, hits
from tasks.data.rows import Message, Row

SAMPLE = Path(__file__).parents[4] / "data" / "sample"
SYSTEM = "You answer the questions of our customers briefly and politely and you never speak of the competition."
TEMPLATE = (
    "Read the following ticket with care, then name its category, its priority and the product that it is about: "
)


def row(question: str, answer: str = "fine", system: str = "") -> Row:
    first = (Message(role="system", content=system),) if system else ()
    return Row(
        id="1", messages=(*first, Message(role="user", content=question), Message(role="assistant", content=answer))
    )


def prose(seed: int, words: int = 40) -> str:
    chance = random.Random(seed)
    return " ".join(f"w{chance.randrange(5000)}" for _ in range(words))


def found(index: Index, train: Sequence[Row]) -> Hits:
    return hits(index.grams.hashes, train, index.ngram)


def shares(index: Index, train: Sequence[Row]) -> list[float]:
    return index.shares(found(index, train), len(train)).tolist()


def together(index: Index, *lists: Sequence[Row]) -> np.ndarray:
    """The shares of all rows, taken in a list at a time."""
    gathered, start = Leaks(index), 0
    for rows in lists:
        gathered.add(found(index, rows), start)
        start += len(rows)
    return gathered.shares(start)


def leaks(index: Index, *train: Row) -> list[bool]:
    return [share >= SHARE for share in shares(index, train)]


def test_near_verbatim_copies_are_caught() -> None:
    question, answer = prose(1), prose(2)
    index = Index.of([row(question, answer, SYSTEM), row(prose(3), prose(4), SYSTEM)], 13)
    changed = question.split()
    changed[20] = "changed"
    assert leaks(
        index,
        row(question.upper().replace(" ", ", ")),
        row(" ".join(changed)),
        row("So I was asked this: " + question + " What now?"),
        row("Write something.", "Sure: " + answer),
        row(answer),
        row(prose(5), prose(6), SYSTEM),
        row(" ".join(question.split()[:14]) + " " + prose(7)),
    ) == [True, True, True, True, True, False, False]


def test_templates_and_system_turns_are_no_leak() -> None:
    test = [row(TEMPLATE + prose(seed), system=SYSTEM) for seed in range(3)]
    train = [row(TEMPLATE + prose(seed), system=SYSTEM) for seed in range(100, 140)]
    index = Index.of(test, 13)
    assert not any(leaks(index, *train))
    assert leaks(index, row(TEMPLATE + prose(0))) == [True]


def test_a_template_in_a_test_set_of_one_row_is_known_from_the_training_rows() -> None:
    train = [row(TEMPLATE + prose(seed, 10)) for seed in range(100, 101 + COMMON_TRAIN)]
    alone = Index.of([row(TEMPLATE + prose(0, 10))], 13)
    assert all(leaks(alone, *train))
    assert not (together(alone, train) >= SHARE).any()
    copy = row(TEMPLATE + prose(0, 10))
    assert (together(alone, [*train, copy]) >= SHARE).tolist() == [False] * len(train) + [True]


def test_labels_and_short_texts_are_no_leak() -> None:
    label = '{"category": "fault", "priority": "normal", "product": "Lumo Heat", "summary": "wifi will not connect"}'
    index = Index.of([row(prose(1), label), row("what is the capital of France?")], 13)
    assert leaks(index, row(prose(2), label), row("What is the capital of France?")) == [False, False]


def test_a_short_text_counts_whole() -> None:
    index = Index.of([row("can you explain the difference between machine and deep learning")], 13)
    assert leaks(index, row("Can you explain the difference between machine and deep learning?")) == [True]
    assert leaks(index, row("can you explain the difference between machine and human learning")) == [False]


def test_scripts_without_spaces_count_by_the_character() -> None:
    index = Index.of([row("请解释机器学习和深度学习之间的区别，并且举一个例子。")], 13)
    assert leaks(
        index,
        row("请解释机器学习和深度学习之间的区别,并且举一个例子"),
        row("请解释一下天气为什么会变化，并且举两个不同的例子。"),
    ) == [True, False]


ROWS = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=14).map(lambda words: row(" ".join(words))), max_size=8
)


@given(ROWS, ROWS, ROWS)
def test_laws(test: list[Row], some: list[Row], others: list[Row]) -> None:
    index = Index.of(test, 4)
    every = [*some, *others]
    assert shares(index, every) == [share for one in every for share in shares(index, [one])]
    assert all(0 <= share <= 1 for share in shares(index, every))
    counts = Counter(hash for one in every for hash in set(Grams.of([one], 4).hashes.tolist()))
    rare = index.only(np.array([counts[hash] <= COMMON_TRAIN for hash in index.grams.hashes.tolist()], dtype=bool))
    assert together(index, some, others).tolist() == together(index, every).tolist() == shares(rare, every)


@given(ROWS)
def test_what_is_in_the_index_is_found_whole(test: list[Row]) -> None:
    index = Index.of(test, 4)
    texts_a_row = 2  # the question and the answer
    own = (index.reach > 0).reshape(len(test), texts_a_row).any(axis=1)
    assert (np.array(shares(index, test))[own] == 1.0).all()


@pytest.mark.parametrize("ngram", [8, 13])
def test_the_sample_has_no_leak(ngram: int) -> None:
    rows = [Row.from_line(line) for file in sorted(SAMPLE.glob("*.jsonl")) for line in file.read_bytes().splitlines()]
    assert len(rows) == 600
    test, train = rows[::7], [one for place, one in enumerate(rows) if place % 7]
    assert not any(leaks(Index.of(test, ngram), *train))
    long = [one for one in test if len(one.messages[1].text.split()) > 30]
    assert len(long) > 5
    assert all(leaks(Index.of(test, ngram), *long))
