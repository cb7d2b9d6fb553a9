"""What the demo tells of its parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import demo
from benchmarks.harness import Comparison, Failure, Run

positive = st.floats(1e-3, 1e6)


def run(wall: float, result: dict[str, Any] | None = None) -> Run:
    return Run(wall, wall, 1_000_000, 1_000_000, result or {})


@settings(deadline=None)
@given(positive, st.dictionaries(st.sampled_from(["fetch", "train", "merge"]), positive, min_size=1), positive)
def test_the_parts_of_the_demo_add_up_to_its_commands(ingest: float, stages: dict[str, float], around: float) -> None:
    first = run(sum(stages.values()) + around, {"seconds": stages})
    runs = {demo.INGEST: [run(ingest)], demo.FIRST: [first], demo.SECOND: [run(1)]}
    found = demo.findings(Comparison(demo.FIRST, runs, {}))
    parts = found.absolute["parts_wall_seconds"]
    assert list(parts) == [demo.INGEST, *stages, demo.REST, "total"]
    assert parts["total"]["median"] == pytest.approx(ingest + first.wall_seconds, abs=1e-5)
    assert sum(found.ratios["share of the demo"].values()) == pytest.approx(1, abs=1e-3)
    assert f"{demo.SECOND} / {demo.FIRST}" in found.ratios


def test_a_demo_that_failed_early_still_tells_what_it_has() -> None:
    found = demo.findings(Comparison(demo.FIRST, {demo.INGEST: [run(1)]}, {demo.FIRST: "why"}))
    assert found.failures == {demo.FIRST: "why"}
    assert demo.INGEST in found.absolute


def test_a_second_run_that_ran_something_is_a_failure() -> None:
    assert demo.nothing_ran(run(1, {"ran": []})) == {}
    assert demo.nothing_ran(run(1, {"ran": ["train"]})) == {demo.SECOND: Failure("ran train where nothing had changed")}
