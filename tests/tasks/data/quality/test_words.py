"""Words and grams: the same for one text alone and among others, and as the plain definition says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.quality import words

PLAIN = st.text(st.characters(codec="utf-8", max_codepoint=0x24F))
TEXTS = st.lists(st.text(max_size=40), max_size=6)


@given(st.lists(PLAIN, max_size=6))
def test_a_word_is_a_run_of_letters_digits_and_underscores(texts: list[str]) -> None:
    found = words.of(texts)
    spelt = [word for text in texts for word in re.findall(r"\w+", text.casefold())]
    assert np.diff(found.offsets).tolist() == [len(re.findall(r"\w+", text.casefold())) for text in texts]
    hashes: dict[str, int] = {}
    for word, value in zip(spelt, found.hashes.tolist(), strict=True):
        assert hashes.setdefault(word, value) == value
    assert len(set(hashes.values())) == len(hashes)


@given(TEXTS, TEXTS)
def test_texts_do_not_touch_each_other(some: list[str], others: list[str]) -> None:
    both, one, two = words.of([*some, *others]), words.of(some), words.of(others)
    assert np.array_equal(both.hashes, np.concatenate([one.hashes, two.hashes]))
    assert np.array_equal(both.offsets, np.concatenate([one.offsets, two.offsets[1:] + one.offsets[-1]]))


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("…!", 0), ("don't", 2), ("猫坐在垫子上", 6), ("Wi-Fi 5GHz", 3), ("แมว", 3)]
)
def test_scripts_without_spaces_count_by_the_character(text: str, count: int) -> None:
    assert len(words.of([text]).hashes) == count


def test_long_texts_cross_no_block() -> None:
    long = "alpha beta " * 20_000
    found = words.of(["one", long, "two"])
    assert np.diff(found.offsets).tolist() == [1, 40_000, 1]
    assert len(set(found.hashes.tolist())) == 4


def gram_sets(texts: list[str], n: int) -> list[set[int]]:
    found = words.grams(words.of(texts), n)
    return [set(found.hashes[low:high].tolist()) for low, high in zip(found.offsets, found.offsets[1:], strict=False)]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), max_size=5), st.integers(1, 4))
def test_grams_are_equal_where_the_words_are(texts: list[str], n: int) -> None:
    def spelt(text: str) -> set[tuple[str, ...]]:
        parts = text.split()
        return {tuple(parts[start : start + n]) for start in range(max(len(parts) - n + 1, min(len(parts), 1)))}

    sets, meant = gram_sets(texts, n), [spelt(text) for text in texts]
    for one in range(len(texts)):
        assert len(sets[one]) == len(meant[one])
        for other in range(one):
            assert len(sets[one] & sets[other]) == len(meant[one] & meant[other])


def test_short_texts_can_be_left_out() -> None:
    assert np.diff(words.grams(words.of(["a b", "a b c", "a b c d e"]), 4, shortest=3).offsets).tolist() == [0, 1, 2]
    assert np.diff(words.grams(words.of(["a b", "a b c", "a b c d e"]), 4, shortest=4).offsets).tolist() == [0, 0, 2]
