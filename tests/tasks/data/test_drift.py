"""Distances are metric-like, noise is what dealing the rows out anew makes, and only real drift exceeds a limit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.data.drift import DECIDING, Drift, drift
from tasks.data.profile import Profile, profile
from tasks.data.rows import Row

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
LIMIT = 0.15


def arrival(day: int) -> list[Row]:
    lines = (SAMPLE / f"day{day}.jsonl").read_text("utf-8").splitlines()
    return [Row.model_validate({**json.loads(line), "source": f"day{day}"}) for line in lines]


DAYS = {day: arrival(day) for day in (1, 2, 3)}


def changed(rows: list[Row], *, text: str | None = None, answer: str | None = None, tag: str = "") -> list[Row]:
    values = [row.model_dump() for row in rows]
    for value in values:
        value["messages"][1]["content"] = text or value["messages"][1]["content"]
        value["messages"][2]["content"] = answer or value["messages"][2]["content"]
        value["tags"] = (tag,) if tag else value["tags"]
    return [Row.model_validate(value) for value in values]


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    rows = draw(st.lists(st.sampled_from(DAYS[1] + DAYS[2]), max_size=12))
    extra = draw(st.lists(st.sampled_from(changed(DAYS[3][:9], text="日本語の質問", tag="new")), max_size=4))
    return profile(rows + extra)


@given(profiles(), profiles())
@settings(max_examples=10, deadline=None)
def test_distances_are_bounded_symmetric_and_deterministic(a: Profile, b: Profile) -> None:
    found = drift(a, b)
    assert found.measure == drift(b, a).measure
    assert found == drift(a, b) == Drift.model_validate_json(found.model_dump_json())
    for each in found.measure.values():
        assert 0 <= each.distance <= 1
        assert 0 <= each.noise <= 1
        assert 0 <= each.beyond_noise <= each.distance
    assert found.overall == max(found.measure[name].beyond_noise for name in DECIDING)


@given(profiles())
@settings(max_examples=10, deadline=None)
def test_equal_shapes_have_no_distance_whatever_their_size(a: Profile) -> None:
    twice = a.merge(a)
    found = drift(a, twice.merge(a))
    assert all(each.distance == 0 for each in found.measure.values())
    assert not found.exceeds(0)
    other = profile(DAYS[2])
    if a.rows:
        for name, each in drift(a, other).measure.items():
            assert drift(twice, other).measure[name].distance == pytest.approx(each.distance, abs=2e-6)


@given(profiles(), profiles(), profiles())
@settings(max_examples=10, deadline=None)
def test_no_detour_is_shorter(a: Profile, b: Profile, c: Profile) -> None:
    if a.rows and b.rows and c.rows:
        for name, direct in drift(a, c).measure.items():
            assert direct.distance <= drift(a, b).measure[name].distance + drift(b, c).measure[name].distance + 1e-5


@pytest.mark.parametrize(("new", "reference"), [(2, 1), (3, 1), (3, 2)])
def test_the_arrivals_of_the_sample_do_not_drift(new: int, reference: int) -> None:
    found = drift(profile(DAYS[new]), profile(DAYS[reference]))
    assert not found.exceeds(LIMIT), found.as_text()
    assert found.measure["vocabulary"].distance > 0.3  # that much is chance, among 90 rows
    assert found.measure["vocabulary"].beyond_noise == 0
    assert found.measure["sources"].distance == 1  # and no reason to train


REFERENCE = profile(DAYS[1])
OTHER = {
    "tags": changed(DAYS[2], tag="returns"),
    "prompt length": changed(DAYS[2], text="The lamp went dark again. " * 200),
    "answer length": changed(DAYS[2], answer='{"category": "other"} ' * 100),
    "vocabulary": changed(DAYS[2], text="Die Lampe bleibt seit gestern dunkel, obwohl ich sie schon dreimal neu verbunden habe."),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OTHER))
def test_other_rows_drift_in_what_is_other_about_them(name: str) -> None:
    found = drift(profile(OTHER[name]), REFERENCE)
    assert found.measure[name].beyond_noise > 2 * LIMIT, found.as_text()
    assert found.exceeds(LIMIT)
    kept = {"tags": "vocabulary", "prompt length": "answer length"}.get(name, "tags")
    assert found.measure[kept].beyond_noise < LIMIT, found.as_text()


def test_half_of_an_arrival_is_enough() -> None:
    found = drift(profile(DAYS[2][:45] + OTHER["tags"][45:]), REFERENCE)
    assert found.exceeds(LIMIT), found.as_text()


def test_noise_covers_what_dealing_the_rows_out_makes() -> None:
    """A real permutation test: of 40 deals of the same rows hardly one is beyond the noise, which is no looser than need be."""
    rows, deal = DAYS[1] + DAYS[2], random.Random(5)
    beyond, largest, noise = dict.fromkeys(DECIDING, 0), dict.fromkeys(DECIDING, 0.0), dict.fromkeys(DECIDING, 0.0)
    for _ in range(40):
        deal.shuffle(rows)
        for name, each in drift(profile(rows[:90]), profile(rows[90:])).measure.items():
            if name in DECIDING:
                beyond[name] += each.distance > each.noise * 1.05
                largest[name], noise[name] = max(largest[name], each.distance), each.noise
    assert max(beyond.values()) <= 2
    assert all(largest[name] > 0.7 * noise[name] for name in DECIDING)


def test_noise_shrinks_as_rows_come_in() -> None:
    noise = [
        drift(profile(DAYS[1][:count]), profile(DAYS[1])).measure["vocabulary"].noise for count in (10, 50, 200, 420)
    ]
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] < noise[0] / 2


def test_nothing_is_no_drift() -> None:
    for pair in ((Profile(), REFERENCE), (REFERENCE, Profile()), (Profile(), Profile())):
        assert drift(*pair).overall == 0
        assert not drift(*pair).exceeds(0)
    one = drift(profile(DAYS[2][:1]), REFERENCE)
    assert not one.exceeds(LIMIT), one.as_text()


def test_rows_beyond_counting() -> None:
    """Billions of rows: numpy's distribution takes 10^9 at the most."""
    huge = REFERENCE
    while huge.rows < 3 * 10**9:
        huge = huge.merge(huge)
    small = drift(profile(DAYS[2]), huge)
    near = drift(profile(DAYS[2]), REFERENCE)
    assert not small.exceeds(2 * LIMIT), small.as_text()
    assert 0.05 < small.measure["vocabulary"].noise <= near.measure["vocabulary"].noise
    assert drift(huge, huge).measure["vocabulary"].noise < 0.001


def test_a_drift_of_other_measures_is_refused() -> None:
    value = drift(REFERENCE, REFERENCE).model_dump()
    backwards = {**value, "measure": dict(reversed(value["measure"].items()))}
    assert list(Drift.model_validate(backwards).measure) == [*DECIDING, "sources"]
    del value["measure"]["tags"]
    with pytest.raises(ValidationError, match="expected the measures"):
        Drift.model_validate(value)


def test_the_table_is_aligned() -> None:
    lines = drift(profile(DAYS[2]), REFERENCE).as_text().splitlines()
    assert lines[0] == "90 new rows against 420"
    assert {len(line) for line in lines[1:]} == {44}
    assert [line.split("  ")[0].strip() for line in lines[2:]] == [*DECIDING, "sources", "overall"]
