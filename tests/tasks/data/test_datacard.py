"""The data card accounts for every row, reads back, and shows foreign text as text."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.errors import IntegrityError
from tasks.data.drift import drift
from tasks.data.profile import Profile, profile
from tasks.data.report import datacard, distributions, histogram
from tasks.data.report.datacard import DataCard, page
from tasks.data.report.datafacts import (
    OTHERS,
    Accounting,
    Arrival,
    Change,
    Composition,
    Example,
    FrozenTest,
    Identity,
    Lengths,
    Mixed,
    Packing,
    Parent,
    RuleResult,
    Split,
)
from tasks.data.report.histogram import Histogram
from tasks.data.rows import Row

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
HOSTILE = "<script>alert(1)</script></style><img src=http://x.test/y onerror=alert(1)>&amp;\u202e\x00'\"{{ 7*7 }}|`x` $\\frac$ 日本"


def sample() -> list[Row]:
    return [
        Row.model_validate({**json.loads(line), "source": file.stem})
        for file in sorted(SAMPLE.glob("*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]


def full(name: str = "") -> DataCard:
    """A card with everything in it; `name` stands wherever text comes from outside."""
    rows = sample()
    parts = {"train": rows[:500], "valid": rows[500:530], "test": rows[530:590]}
    profiles = {split: profile(each) for split, each in parts.items()}
    composition = Composition.of(profiles)
    splits = tuple(
        Split(name=split, rows=len(each), tokens=105 * len(each), loss_tokens=30 * len(each), groups=len(each))
        for split, each in parts.items()
    )
    words = Counter(len(" ".join(message.text for message in row.messages).split()) for row in rows)
    return DataCard(
        identity=Identity(digest="ab" * 32, base=f"hub:org/base{name}", template="cd" * 32, params={f"p{name}": f"v{name}"}),
        parent=Parent(version="ef" * 32, before=515, added=90, forgotten=5),
        accounting=Accounting(read=600, splits=splits, dropped={"near duplicate": 6, f"odd{name}": 3}, held_out=1),
        arrivals=tuple(Arrival(name=f"shard-{n:03}{name}", source=f"s{name}", rows=6) for n in range(100)),
        change=Change(sources={f"day3{name}": 90}, tags={f"email{name}": 36}, drift=drift(profiles["test"], profiles["train"])),
        composition=composition.model_copy(update={"sources": composition.sources | {f"s{name}": 1, "": 2}}),
        lengths=Lengths(
            tokens=histogram.of_lengths(words), prompts=histogram.of_profile(profiles["train"].prompts),
            answers=histogram.of_profile(profiles["train"].answers), max_length=512, fences=(30, 75),
        ),
        quality=(
            RuleResult(
                rule=f"near duplicates{name}", action="drop", found=7, dropped=6,
                examples=(Example(id=f"d1{name}", detail=f"0.94{name}", excerpt=f"The lamp{name}" + "x" * 5000),),
            ),
        ),
        mixing=tuple(Mixed(source=f"{n}{name}", rows=250, weight=1.0, copies=n, share=n / 3) for n in (1, 2)),
        packing=Packing(packs=52, budget=1024, rows=500, tokens=52_500, capacity=53_248, longest=144),
        test=FrozenTest(rows=60, digest="12" * 32),
    )  # fmt: skip


def bare() -> DataCard:
    """Nothing but what must be there, and no row."""
    return DataCard(
        identity=Identity(digest="ab" * 32, base="b", template="cd"),
        accounting=Accounting(read=0, splits=()),
        lengths=Lengths(max_length=512),
    )


class _Page(HTMLParser):
    """Elements with their attributes, ids, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "path", "rect", "use", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                raise AssertionError(f"</{tag}> closes another element")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_write_and_read(tmp_path: Path) -> None:
    card = full()
    datacard.write(tmp_path / "a", card)
    datacard.write(tmp_path / "b", datacard.read(tmp_path / "a"))
    assert datacard.read(tmp_path / "a") == card
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["README.md", "card.json", "index.html"]
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_card_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="has no card.json"):
        datacard.read(tmp_path)
    (tmp_path / "card.json").write_text('{"identity": 1}')
    with pytest.raises(IntegrityError, match="is not a data card: identity"):
        datacard.read(tmp_path)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(-3, 3))
def test_every_row_is_accounted_for(train: int, dropped: int, held_out: int, missing: int) -> None:
    splits = (Split(name="train", rows=train, tokens=9, loss_tokens=3, groups=1),)
    value: dict[str, Any] = {"splits": splits, "dropped": {"x": dropped}, "held_out": held_out}
    read = max(0, train + dropped + held_out + missing)
    if read == train + dropped + held_out:
        assert Accounting(read=read, **value).split("train").rows == train
    else:
        with pytest.raises(ValidationError, match="accounted for"):
            Accounting(read=read, **value)


def test_a_card_follows_its_parent() -> None:
    with pytest.raises(ValidationError, match="are not the 600 that were read"):
        DataCard(**{**dict(full()), "parent": Parent(version="v", before=1, added=1, forgotten=0)})


def test_the_page_says_what_the_card_holds() -> None:
    shown = _Page(page(full()))
    text = " ".join(shown.text.split())
    for said in (
        "600 read = 500 train + 30 valid + 60 test + 9 dropped + 1 held out", "515 rows before + 90 added − 5 forgotten = 600",
        "dropped: near duplicate", "28.6%", "98.6%", "the last 40 of 100", "shard-099", "vocabulary",
        "Out of the picture: max_length 512",
        "(unnamed)", "12" * 32, "1 of 7 found", "several-products",
    ):  # fmt: skip
        assert said in text, said
    assert "shard-059" not in text
    assert len(page(full())) < 300_000


def test_the_page_is_accessible_and_stands_alone() -> None:
    shown = _Page(page(full()))
    assert shown.open == []
    assert "script" not in shown.tags
    ids = [value for name, value in shown.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = [value for name, value in shown.attributes if name == "aria-labelledby" and value]
    assert named
    assert {part for value in named for part in value.split()} <= set(ids)
    assert shown.tags.count("svg") == shown.tags.count("figure") == 7
    assert shown.tags.count("h1") == 1
    assert not [value for name, value in shown.attributes if name in ("src", "href") and value and value[0] not in "#d"]
    assert "http" not in page(full()).replace("http-equiv", "")


def test_foreign_text_stays_text() -> None:
    shown = _Page(page(full(HOSTILE)))
    assert shown.open == []
    assert not {"script", "img"} & set(shown.tags)
    assert not [name for name, _ in shown.attributes if name.startswith("on")]
    assert "alert(1)" in shown.text
    assert "{{ 7*7 }}" in shown.text
    assert "\u202e" not in shown.text
    assert "\x00" not in shown.text
    assert "x" * 400 not in shown.text  # clipped


def test_the_markdown_has_tables_and_one_image() -> None:
    for text in (datacard.markdown(full()), datacard.markdown(full(HOSTILE))):
        assert len(re.findall(r"!\[[^\]]*\]\(data:image/svg\+xml;base64,[\w+/=]+\)", text)) == 1
        assert "<script" not in text.replace("\\<", "")
        assert "\x00" not in text
        tables = re.findall(r"(?:^\|.*\| *\n)+", text, re.MULTILINE)
        assert len(tables) == 9
        for table in tables:
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}
            assert len(widths) == 1, table
    assert "**600**" in datacard.markdown(full())


def test_a_card_of_nothing_is_a_page(tmp_path: Path) -> None:
    datacard.write(tmp_path, bare())
    assert datacard.read(tmp_path) == bare()
    shown = _Page(page(bare()))
    assert shown.open == []
    assert "svg" not in shown.tags
    assert "0 read = 0 dropped + 0 held out" in shown.text
    assert "![" not in datacard.markdown(bare())


def test_composition_counts_by_split() -> None:
    rows = sample()
    found = Composition.of({"train": profile(rows[:400]), "test": profile(rows[400:])})
    assert sum(found.sources.values()) == 600
    for tag, splits in found.tags.items():
        assert splits == {
            "train": sum(tag in row.tags for row in rows[:400]),
            "test": sum(tag in row.tags for row in rows[400:]),
        }
    assert found.turns == {2: 600}
    assert Composition.of({}) == Composition() == Composition.of({"train": Profile()})


def test_tags_beyond_the_cap_are_others() -> None:
    tags = [f"t{n}" for n in range(1500)]
    many = profile([Row.model_validate({**sample()[0].model_dump(), "tags": tags})])
    found = Composition.of({"train": many, "test": many})
    assert found.tags[OTHERS] == {"train": 500, "test": 500}
    assert len(found.tags) == 1001


# Histograms and charts.

LENGTHS = st.dictionaries(st.integers(0, 10**6), st.integers(0, 50), max_size=40)


@given(LENGTHS)
def test_a_histogram_counts_every_row(lengths: dict[int, int]) -> None:
    found = histogram.of_lengths(lengths)
    assert found.rows == sum(lengths.values())
    assert len(found.counts) <= histogram.MOST_BINS
    each = [length for length, count in lengths.items() for _ in range(count)]
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == sum(low <= length < high for length in each)
    if each:
        assert found.at_most(1) is not None
        assert max(each) <= (found.at_most(1) or 0)
    else:
        assert found.at_most(1) is None


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30), st.sampled_from([0.5, 0.95, 1]))
@settings(max_examples=50)
def test_a_share_of_the_rows_is_at_most_that_long(lengths: list[int], share: float) -> None:
    most = histogram.of_lengths(Counter(lengths)).at_most(share) or 0
    assert sum(length <= most for length in lengths) >= share * len(lengths)


def test_a_histogram_of_a_profile() -> None:
    found = profile(sample())
    prompts = histogram.of_profile(found.prompts)
    assert prompts.rows == 600
    assert histogram.of_profile(Profile().prompts) == Histogram()
    with pytest.raises(ValidationError, match="rising edges"):
        Histogram(edges=(1, 1), counts=(3,))


@pytest.mark.parametrize(
    "lengths", [{0: 3}, {1: 1}, {5: 2}, {0: 1, 10**6: 1}, {1 << 40: 1}, {100: 5, 101: 1}, {0: 9, 9: 1}]
)
def test_any_lengths_can_be_drawn(lengths: dict[int, int]) -> None:
    svg = distributions.histogram("h", histogram.of_lengths(lengths), "tokens", {"max_length": 512})
    assert svg == distributions.histogram("h", histogram.of_lengths(lengths), "tokens", {"max_length": 512})
    assert svg.startswith("<svg viewBox=")
    assert 'aria-labelledby="h-title h-summary"' in svg


def test_marks_out_of_reach_are_left_to_the_caption() -> None:
    found = histogram.of_lengths({100: 5, 140: 1})
    marks = {"max_length": 512, "fence": 130, "low": 20}
    assert distributions.drawn(found, marks) == {"fence": 130}
    svg = distributions.histogram("h", found, "tokens", marks)
    assert "fence 130" in svg
    assert "max_length" not in svg
