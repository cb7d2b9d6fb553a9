"""Near duplicates: what is found, what stays, and that it stays cheap."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.quality import near_duplicates, words
from tasks.data.rows import Message, Row, ToolCall

WORDS = [f"word{number}" for number in range(400)]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS[:12]), max_size=9).map(" ".join), max_size=12)


def jaccard(left: str, right: str) -> float:
    one, other = (set(words.grams(words.of([text]), 3).hashes.tolist()) for text in (left, right))
    return len(one & other) / len(one | other)


def variations() -> list[tuple[str, str]]:
    """A text of 120 words and the same with one to eight of them exchanged: similarities of about 0.65 to 0.98."""
    chance = random.Random(5)
    pairs: list[tuple[str, str]] = []
    for number in range(800):
        before = [chance.choice(WORDS) for _ in range(120)]
        after = list(before)
        for place in chance.sample(range(120), number % 8 + 1):
            after[place] = "changed"
        pairs.append((" ".join(before), " ".join(after)))
    return pairs


def test_recall_and_precision_against_the_exact_index() -> None:
    pairs = variations()
    exact = np.array([jaccard(*pair) for pair in pairs])
    found = near_duplicates.find(near_duplicates.signatures([text for pair in pairs for text in pair]), 0.9)
    hit = found[1::2] == np.arange(0, 2 * len(pairs), 2)
    assert (found[0::2] == near_duplicates.NONE).all()
    assert (exact >= 0.9).sum() >= 200
    assert (exact < 0.85).sum() > 200
    assert hit[exact >= 0.9].mean() >= 0.95
    assert (exact[hit] >= 0.85).mean() >= 0.95
    assert not hit[exact < 0.8].any()


@pytest.mark.parametrize("similarity", [0.6, 0.75, 0.9, 1.0])
def test_bands_fit_the_similarity(similarity: float) -> None:
    count, width = near_duplicates.bands(similarity)
    assert count * width <= near_duplicates.PERMUTATIONS
    assert 1 - (1 - similarity**width) ** count >= 0.99


@given(TEXTS, st.sampled_from([0.6, 0.9, 1.0]))
def test_laws_of_find(texts: list[str], similarity: float) -> None:
    signatures = near_duplicates.signatures(texts)
    found = near_duplicates.find(signatures, similarity)
    for row, like in enumerate(found.tolist()):
        assert like < row
        if like == near_duplicates.NONE:
            assert texts[row] not in texts[:row], "an equal text stood before"
            continue
        assert found[like] == near_duplicates.NONE, "a row fell for one that fell, too"
        assert (signatures[row] == signatures[like]).sum() >= near_duplicates.accepted(similarity)
    stay = signatures[found == near_duplicates.NONE]
    assert (near_duplicates.find(stay, similarity) == near_duplicates.NONE).all()


@given(TEXTS, TEXTS)
def test_a_signature_depends_on_its_text_alone(some: list[str], others: list[str]) -> None:
    both = near_duplicates.signatures([*some, *others])
    apart = [near_duplicates.signatures(some), near_duplicates.signatures(others)]
    assert np.array_equal(both, np.concatenate(apart))


@given(TEXTS, TEXTS, st.sampled_from([0.6, 0.9, 1.0]))
def test_rows_that_arrive_later_move_no_earlier_one(some: list[str], others: list[str], similarity: float) -> None:
    before = near_duplicates.find(near_duplicates.signatures(some), similarity)
    after = near_duplicates.find(near_duplicates.signatures([*some, *others]), similarity)
    assert np.array_equal(before, after[: len(some)])


def test_case_punctuation_and_spacing_are_aside_and_marks_are_not_nothing() -> None:
    texts = [
        "The cat, sat on a mat.",
        "the CAT sat\n on  a mat",
        "!!!",
        "???",
        "",
        "! ! !",
        "猫坐在垫子上",
        "猫 坐在垫子上。",
    ]
    assert near_duplicates.find(near_duplicates.signatures(texts), 0.9).tolist() == [-1, 0, -1, -1, -1, 2, -1, 6]


def test_what_of_a_row_is_compared() -> None:
    row = Row(
        id="1",
        messages=(
            Message(role="system", content="you are"),
            Message(role="user", content="weather?"),
            Message(role="assistant", tool_calls=(ToolCall(name="look", arguments={"city": "Köln"}),)),
            Message(role="tool", content="rain"),
            Message(role="assistant", content="It rains."),
        ),
    )
    assert near_duplicates.text(row) == 'weather?\n\nrain\nIt rains.\n["look",{"city":"Köln"}]'


def test_chains_are_not_followed() -> None:
    """Each text is like its neighbours, the first and the last have nothing in common."""
    line = [f"w{number}" for number in range(600)]
    texts = [" ".join(line[start : start + 300]) for start in range(0, 300, 5)]
    signatures = near_duplicates.signatures(texts)
    found = near_duplicates.find(signatures, 0.9)
    assert 5 < (found == near_duplicates.NONE).sum() < len(texts)
    fallen = np.flatnonzero(found != near_duplicates.NONE)
    assert ((signatures[fallen] == signatures[found[fallen]]).mean(axis=1) > 0.85).all()


def test_signatures_are_the_same_on_every_machine() -> None:
    value = near_duplicates.signatures(["a small text that never changes"])
    assert value.dtype == np.uint32
    assert value.shape == (1, near_duplicates.PERMUTATIONS)
    assert value[0, :3].tolist() == [3222108943, 3363427310, 3367774064]


@pytest.mark.timeout(120)  # the square of its length would take hours
def test_equal_rows_in_a_file_take_linear_time(tmp_path: Path) -> None:
    kept = np.lib.format.open_memmap(
        tmp_path / "signatures.npy", "w+", np.uint32, (100_000, near_duplicates.PERMUTATIONS)
    )
    kept[:] = 7
    found = near_duplicates.find(kept, 0.9)
    assert (found[1:] == 0).all()
