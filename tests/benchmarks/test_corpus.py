"""The corpus of the preparation benchmark: deterministic, its repeats counted, its rows like the real ones."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from statistics import mean, quantiles

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measuring import corpus
from benchmarks.measuring.child import Unprepared
from benchmarks.measuring.corpus import Conversation, Corpus, Made
from tasks.data.rows import Row

real_data = pytest.mark.skipif(not corpus.DATA.is_dir(), reason=f"{corpus.DATA} is absent: nothing to make rows from")

words = st.text("ab cé里 ", min_size=1, max_size=30).filter(str.strip)
pairs = st.lists(st.tuples(words, words), unique=True, min_size=1, max_size=3 * corpus.NEAR)


@pytest.fixture(scope="module")
def made() -> Corpus:
    return corpus.read(0)


def small(texts: list[tuple[str, str]], seed: int) -> Corpus:
    """A corpus of one family, small enough to run out of real rows at once."""
    family: tuple[Conversation, ...] = tuple(sorted((("user", asked), ("assistant", said)) for asked, said in texts))
    varied = family * 2 if len(family) == 1 else family
    return Corpus(seed, family, (varied,), tuple((0, place) for place in range(len(varied))))


# ---- laws


@settings(deadline=None, max_examples=50)
@given(pairs, st.integers(0, 2**40))
def test_rows_differ_but_for_the_repeats(texts: list[tuple[str, str]], seed: int) -> None:
    made = small(texts, seed)
    lines = [made.line(number) for number in range(200)]
    for number in range(201):
        assert len(set(lines[:number])) == corpus.distinct(number)
    for number in range(corpus.REPEATED - 1, 200, corpus.REPEATED):
        assert lines[number] in lines[:number]


@settings(deadline=None, max_examples=50)
@given(pairs, st.integers(0, 2**40))
def test_no_message_is_blank_or_changes_its_role(texts: list[tuple[str, str]], seed: int) -> None:
    made = small(texts, seed)
    for number in range(100):
        messages = json.loads(made.line(number))["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert all(message["content"].strip() for message in messages)


@given(st.integers(0, 10**7))
def test_one_row_in_ten_is_a_repeat(rows: int) -> None:
    assert 0 <= rows / 10 - (rows - corpus.distinct(rows)) < 1
    assert corpus.distinct(rows + 10) == corpus.distinct(rows) + 9


# ---- with the real rows


@real_data
def test_equal_arguments_give_equal_bytes_and_another_seed_others(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file, seed in zip(files, (7, 7, 8), strict=True):
        assert corpus.write(file, 300, seed).rows == 300
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


@real_data
def test_the_smaller_corpus_is_the_beginning_of_the_larger(tmp_path: Path) -> None:
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    corpus.write(small, 10_000, 0)
    corpus.write(large, 20_000, 0)
    lines = large.read_bytes().splitlines(keepends=True)
    assert small.read_bytes() == b"".join(lines[:10_000])


@real_data
def test_what_is_said_of_the_file_is_true(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    said = corpus.write(file, 20_001, 3)
    lines = file.read_bytes().splitlines(keepends=True)
    assert said == Made(len(lines), len(set(lines)), file.stat().st_size)
    assert (said.rows, said.distinct) == (20_001, 18_001)


@real_data
def test_every_real_conversation_comes_first_and_once(made: Corpus) -> None:
    first = [made.conversation(number) for number in range(len(made.real))]
    assert len(set(first)) == len(first) > 11_000
    texts = ["".join(text for _, text in conversation) for conversation in first]
    assert sum("name[" in text for text in texts) > 8_000
    assert sum("\u4e00" <= letter <= "\u9fff" for text in texts for letter in text[:1]) > 500
    assert sum("<tool_call>" in text for text in texts) > 100


@real_data
def test_variations_are_as_long_as_the_real_rows(made: Corpus) -> None:
    real, varied = (
        [sum(len(text) for _, text in made.conversation(number)) for number in numbers]
        for numbers in (range(len(made.real)), range(len(made.real), 2 * len(made.real)))
    )
    assert mean(varied) == pytest.approx(mean(real), rel=0.1)
    for of_varied, of_real in zip(quantiles(varied, n=20), quantiles(real, n=20), strict=True):
        assert of_varied == pytest.approx(of_real, rel=0.15)


@real_data
def test_every_row_is_one_that_the_line_takes(made: Corpus) -> None:
    for number in range(0, 30_000, 7):
        turns = [{"role": role, "content": text} for role, text in made.conversation(number)]
        assert len(Row.model_validate({"id": "x", "messages": turns}).messages) == len(turns)


@real_data
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = [_peak_bytes(tmp_path / "rows.jsonl", rows) for rows in (1_000, 10_000)]
    assert peaks[1] - peaks[0] < 200_000 < (tmp_path / "rows.jsonl").stat().st_size / 20


def _peak_bytes(file: Path, rows: int) -> int:
    tracemalloc.start()
    try:
        corpus.write(file, rows, 0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unprepared, match=r"alpaca_en_demo\.json is missing"):
        corpus.write(tmp_path / "rows.jsonl", 1, 0, tmp_path)
