"""Profiles add up exactly, whatever the order, and the sketch of the words does what its description says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.data import vocabulary
from tasks.data.census import CAP, LONGEST, Census, Tally
from tasks.data.profile import BINS, EDGES, MOST_TURNS, Accumulator, Profile, profile
from tasks.data.rows import Row

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
WORDS = st.text("abÄß日本語ไทย हि1_-. \n\U0001f600", max_size=30) | st.text(max_size=30)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": "be brief"})
    for _ in range(draw(st.integers(1, 3))):
        image = [{"type": "image", "image": "a.png"}] if draw(st.booleans()) else []
        messages.append({"role": "user", "content": [{"type": "text", "text": "q" + draw(WORDS)}, *image]})
        if draw(st.booleans()):
            calls = [{"name": "look_up", "arguments": {"key": draw(WORDS)}}]
            messages.append({"role": "assistant", "tool_calls": calls})
            messages.append({"role": "tool", "content": "r" + draw(WORDS)})
        messages.append({"role": "assistant", "content": "a" + draw(WORDS)})
    source = draw(st.sampled_from(["", "mail", "chat"]))
    tags = draw(st.lists(st.sampled_from(["terse", "angry", "日本"]), max_size=4))
    return Row.model_validate({"id": "1", "messages": messages, "source": source, "tags": tags})


ROWS = st.lists(rows(), max_size=6)


def says(user: str, assistant: str = "-", **more: Any) -> Row:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return Row.model_validate({"id": "1", "messages": messages, **more})


@given(ROWS, ROWS, ROWS)
@settings(max_examples=40, deadline=None)
def test_profiles_add_up(a: list[Row], b: list[Row], c: list[Row]) -> None:
    pa, pb, pc = profile(a), profile(b), profile(c)
    assert profile(a + b) == pa.merge(pb) == pb.merge(pa)
    assert pa.merge(pb).merge(pc) == pa.merge(pb.merge(pc))
    assert pa.merge(Profile()) == pa == Profile().merge(pa)
    assert profile(reversed(a)) == pa


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_a_profile_reads_back_and_counts_every_row(a: list[Row]) -> None:
    found = profile(a)
    text = found.model_dump_json()
    assert Profile.model_validate_json(text) == found
    assert profile(reversed(a)).model_dump_json() == text
    assert found.rows == len(a)
    assert found.untagged == sum(not row.tags for row in a)
    assert found.with_images == sum(bool(row.images) for row in a)
    assert found.with_system == sum(row.messages[0].role == "system" for row in a)
    assert found.with_tools == sum(any(message.role == "tool" for message in row.messages) for row in a)
    for tag in ("terse", "angry", "日本"):
        assert found.tags.counts.get(tag, 0) == sum(tag in row.tags for row in a)


def test_the_sample_corpus() -> None:
    files = sorted(SAMPLE.glob("*.jsonl"))
    assert len(files) == 3
    read = [Row.model_validate(json.loads(line)) for file in files for line in file.read_text("utf-8").splitlines()]
    found = profile(read)
    assert found.rows == found.with_system == 600
    assert found.turns == {2: 600}
    assert found.with_tools == found.with_images == found.wordless == 0
    ticket = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    mentions = sum("password" in re.findall(r"\w+", json.dumps(row["messages"][1:]).lower()) for row in ticket)
    assert max(found.words) <= 600
    assert found.words[bucket("password")] >= mentions > 0


def test_lengths_fall_into_their_bins() -> None:
    assert EDGES[0] == 1
    assert EDGES[-1] == 2**24
    assert len(EDGES) + 1 == BINS
    for length in (1, 2, 7, 8, 9, 1023, 1024, 5000):
        found = profile([says("x" * length)])
        place = found.prompts.index(1)
        assert sum(found.prompts) == 1
        assert EDGES[place - 1] <= length < EDGES[place]


def test_calls_are_answers_and_tool_results_prompts() -> None:
    messages = [
        {"role": "system", "content": "s" * 500}, {"role": "user", "content": "uuu"},
        {"role": "assistant", "tool_calls": [{"name": "find", "arguments": {"key": "needle"}}]},
        {"role": "tool", "content": "ttt"}, {"role": "assistant", "content": "done"},
    ]  # fmt: skip
    found = profile([Row.model_validate({"id": "1", "messages": messages})])
    assert found.prompts.index(1) == EDGES.index(7) + 1  # uuu, a line's end, ttt
    assert found.turns == {4: 1}
    assert found.with_tools == 1
    assert all(found.words[bucket(word)] for word in ("needle", "find", "done", "ttt", "uuu"))
    assert found.words[bucket("s" * 500)] == 0


def test_very_many_turns_are_counted_together() -> None:
    turns = [{"role": role, "content": "x"} for _ in range(80) for role in ("user", "assistant")]
    assert profile([Row.model_validate({"id": "1", "messages": turns})]).turns == {MOST_TURNS: 1}


def test_an_accumulator_goes_on() -> None:
    accumulator = Accumulator()
    assert accumulator.profile() == Profile()
    for n in range(3):
        accumulator.add(says(f"word{n}"))
        assert accumulator.profile() == profile(says(f"word{each}") for each in range(n + 1))


def test_a_profile_that_does_not_add_up_is_refused() -> None:
    value = json.loads(profile([says("x")]).model_dump_json())
    Profile.model_validate(value)
    for wrong in ({"rows": 2}, {"words": [0]}, {"format": 2}, {"untagged": -1}, {"extra": 1}):
        with pytest.raises(ValidationError):
            Profile.model_validate({**value, **wrong})


# The census: bounded, and still exact.

NAMES = st.lists(st.integers(0, 3 * CAP), max_size=30).map(
    lambda starts: [str(n) for s in starts for n in range(s, s + 150)]
)


def census(names: Sequence[str]) -> Census:
    tally = Tally()
    for name in names:
        tally.add(name)
    return tally.census()


@given(NAMES, NAMES, st.randoms())
@settings(max_examples=25, deadline=None)
def test_a_census_merges_exactly_beyond_its_cap(a: list[str], b: list[str], random: Any) -> None:
    both = census(a + b)
    assert both == census(a).merge(census(b)) == census(b).merge(census(a))
    shuffled = a + b
    random.shuffle(shuffled)
    assert census(shuffled) == both
    assert both.total == len(a) + len(b)
    assert len(both.counts) == min(CAP, len({*a, *b}))
    assert all(count == (a + b).count(name) for name, count in list(both.counts.items())[:20])
    assert (both.other == 0) == (len({*a, *b}) <= CAP)


def test_two_parts_of_a_census_are_compared_over_the_same_names() -> None:
    a, b = census([str(n) for n in range(900)]), census([str(n) for n in range(500, 1500)])
    union = a.merge(b)
    left, right = a.within(union), b.within(union)
    assert left.counts.keys() == right.counts.keys() == union.counts.keys()
    assert {name: left.counts[name] + right.counts[name] for name in union.counts} == union.counts
    assert (left.total, right.total) == (900, 1000)


def test_a_long_name_is_cut() -> None:
    assert census(["x" * 5000]).counts == {"x" * LONGEST: 1}


# The words.


def bucket(word: str) -> int:
    """The bucket's definition in plain integers."""

    def mixed(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    polynomial = sum(mixed(ord(letter)) * pow(0x9E3779B97F4A7C15, n, 2**64) for n, letter in enumerate(word))
    return mixed(polynomial % 2**64) >> 52


@given(st.lists(st.text("abcXYZ019_ .,-\n", max_size=40), max_size=8))
def test_words_land_in_their_buckets(texts: list[str]) -> None:
    expected = np.zeros(vocabulary.BUCKETS, int)
    for text in texts:
        expected[[*{bucket(word) for word in re.findall(r"\w+", text.lower())}]] += 1
    counts, wordless = vocabulary.rows_with_words(texts)
    assert counts.tolist() == expected.tolist()
    assert wordless == sum(not re.search(r"\w", text) for text in texts)


@given(st.lists(WORDS | st.text(st.characters()), max_size=8))
def test_a_text_is_read_alike_wherever_it_stands(texts: list[str]) -> None:
    counts, wordless = vocabulary.rows_with_words(texts)
    each = [vocabulary.rows_with_words([text]) for text in texts]
    assert counts.tolist() == sum((part for part, _ in each), np.zeros(vocabulary.BUCKETS, int)).tolist()
    assert wordless == sum(part for _, part in each)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("GROSS Größe", ["gross", "größe"]), ("日本語です", ["日", "本", "語", "で", "す"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]), ("안녕 세계", ["안녕", "세계"]), ("don't_stop", ["don", "t_stop"]),
        ("日abc本", ["日", "abc", "本"]), ("\U0001f600 !?", []),
    ],
)  # fmt: skip
def test_words_of_any_script(text: str, words: list[str]) -> None:
    counts, wordless = vocabulary.rows_with_words([text])
    assert set(np.flatnonzero(counts)) == {bucket(word) for word in words}
    assert wordless == (not words)


def test_buckets_are_used_evenly() -> None:
    """Chi-squared of 40,960 words over 4,096 buckets: its standard deviation is 90."""
    counts, _ = vocabulary.rows_with_words([f"word{n}" for n in range(40_960)])
    assert abs(float(((counts - 10.0) ** 2 / 10.0).sum()) - 4095) < 5 * 90
