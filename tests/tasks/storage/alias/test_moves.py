"""Aliases on a real S3 server: one move at a time, each in the log, whoever races."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.errors import ConflictError, ParamsError
from tasks.storage.aliases import NOWHERE, Alias, Move
from tasks.storage.model_version import Version, parse
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests.registries import publish
from tests.tasks.storage.alias.moving import KEY, LATER, assert_linear, moves, promote, rollback


def test_a_promotion_is_found_and_logged(registry: Registry, versions: list[Version], tmp_path: Path) -> None:
    move = promote(registry, versions[1], verdict="f" * 64)
    assert move == Move(
        Alias(
            name="m", alias="champion", version=2, previous=None, fallback=None, generation=1, action="promote",
            who="ada", why="better", verdict="f" * 64, at=LATER,
        ),
        made=True,
    )  # fmt: skip
    assert registry.find("m@champion") == versions[1]
    assert registry.find("m") == versions[2]
    content = registry.store.get(KEY)
    assert content and parse(Alias, content.data, "here") == move.alias
    last = registry.log("m")[-1]
    assert (last.action, last.version, last.who, last.why, last.verdict) == ("promote", 2, "ada", "better", "f" * 64)
    registry.pull(registry.find("m@champion"), None, tmp_path / "out")
    assert (tmp_path / "out/merged/own").read_bytes() == b"2"
    assert not list(registry.store.keys("leases/")) and not list(registry.store.keys("probe/"))


def test_promoting_what_is_there_moves_nothing(registry: Registry, versions: list[Version]) -> None:
    promote(registry, versions[0])
    again = promote(registry, versions[0], why="once more")
    assert not again.made and again.alias.why == "better"
    assert moves(registry) == [(1, "promote", None, 1)]


def test_an_expectation_guards_the_comparison(registry: Registry, versions: list[Version]) -> None:
    promote(registry, versions[0], expect=NOWHERE)
    with pytest.raises(
        ConflictError, match=r"m@champion no longer names no version, now at v1 \(move 1, by ada: better\)"
    ):
        promote(registry, versions[1], expect=NOWHERE)
    promote(registry, versions[1], expect=1)
    with pytest.raises(ConflictError, match="no longer names v1, now at v2"):
        promote(registry, versions[2], expect=1)
    assert_linear(registry)


def test_rollback_goes_back_step_by_step(registry: Registry, versions: list[Version]) -> None:
    for version in versions:
        promote(registry, version)
    assert rollback(registry).alias.version == 2
    assert rollback(registry).alias.version == 1
    with pytest.raises(ParamsError, match="m@champion names v1 and nothing was promoted before"):
        rollback(registry)
    promote(registry, versions[2])
    assert rollback(registry).alias.version == 1
    assert_linear(registry)
    assert registry.log("m")[-1].who == "bob"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), max_size=9))
def test_any_history_is_a_chain(root: Store, registry: Registry, versions: list[Version], steps: list[int]) -> None:
    """0 rolls back, any other number promotes that version; a list of what lies beneath foretells the result."""
    for key in [*registry.store.keys("models/m/aliases/"), *registry.store.keys("models/m/log/")]:
        registry.store.delete(key)
    stack: list[int] = []
    for step in steps:
        if step:
            promote(registry, versions[step - 1])
            stack += [step] if stack[-1:] != [step] else []
        elif len(stack) > 1:
            rollback(registry)
            stack.pop()
        else:
            with pytest.raises(ParamsError):
                rollback(registry)
        found = registry.aliases.read("m", "champion")
        assert (found.version if found else None) == (stack[-1] if stack else None)
        assert (found.fallback if found else None) == (stack[-2] if len(stack) > 1 else None)
    assert_linear(registry)


def test_thirty_two_promote_at_once(registry: Registry, tmp_path: Path) -> None:
    many = [publish(registry, tmp_path, number) for number in range(1, 33)]

    def attempt(version: Version) -> int | str:
        try:
            return promote(registry, version, expect=NOWHERE).alias.generation
        except ConflictError as error:
            return str(error)

    with ThreadPoolExecutor(32) as pool:
        told = list(pool.map(attempt, many))
    winner = registry.aliases.read("m", "champion")
    assert winner and told.count(1) == 1 and told.index(1) + 1 == winner.version
    losers = [words for words in told if isinstance(words, str)]
    assert len(losers) == 31 and all(f"now at v{winner.version} " in words for words in losers)
    assert_linear(registry)


def test_without_an_expectation_each_generation_has_one_winner(registry: Registry, tmp_path: Path) -> None:
    many = [publish(registry, tmp_path, number) for number in range(1, 17)]

    def attempt(version: Version) -> int | None:
        try:
            return promote(registry, version).alias.generation
        except ConflictError as error:
            assert "now at v" in str(error)
            return None

    with ThreadPoolExecutor(16) as pool:
        won = [generation for generation in pool.map(attempt, many) if generation]
    assert sorted(won) == [*range(1, len(won) + 1)]
    assert_linear(registry)
