"""What an alias may name, and what is said of one that is damaged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tasks.core.errors import IntegrityError, ParamsError
from tasks.storage import blobs
from tasks.storage.aliases import LARGEST
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tests.tasks.storage.alias.moving import KEY, LATER, assert_linear, moves, promote, rollback


def test_an_alias_never_names_what_is_not_whole(registry: Registry, versions: list[Version]) -> None:
    promote(registry, versions[0])
    promote(registry, versions[1])
    own = blobs.key(versions[0].files["merged/own"].sha256)
    kept = registry.store.whole(own)
    registry.store.delete(own)
    with pytest.raises(IntegrityError, match=rf"merged/own: its blob {registry.store.at(own)} is missing"):
        rollback(registry)
    registry.store.put(own, b"11")
    with pytest.raises(IntegrityError, match="has 2 bytes instead of 1"):
        promote(registry, versions[0])
    registry.store.put(own, kept)
    registry.store.delete("models/m/versions/v1.json")
    with pytest.raises(IntegrityError, match="m@champion can't go back to v1, which is gone"):
        rollback(registry)
    with pytest.raises(ParamsError, match="m has no version v1 any more"):
        promote(registry, versions[0])
    assert moves(registry) == [(1, "promote", None, 1), (2, "promote", 1, 2)]
    registry.store.delete("models/m/versions/v2.json")
    with pytest.raises(IntegrityError, match="m@champion names v2, which is gone: promote another"):
        registry.find("m@champion")


@pytest.mark.parametrize("alias", ["latest", "v3", "v03", "../x", "A", "1a", "", "a b", "a\n", "a/b", "a" * 64, "аdа"])
def test_names_that_could_be_no_alias(registry: Registry, versions: list[Version], alias: str) -> None:
    with pytest.raises(ParamsError, match="is no alias"):
        registry.aliases.promote(versions[0], alias, who="ada", why="x", now=LATER)
    with pytest.raises(ParamsError, match="is no alias"):
        registry.aliases.rollback("m", alias, who="ada", why="x", now=LATER)
    assert not list(registry.store.keys("models/m/aliases/"))


def test_what_is_not_there(registry: Registry, versions: list[Version]) -> None:
    with pytest.raises(ParamsError, match="m has no alias 'champion'; it has no aliases yet"):
        registry.find("m@champion")
    registry.aliases.promote(versions[0], "staging", who="ada", why="x", now=LATER)
    with pytest.raises(ParamsError, match="it has m@staging"):
        registry.find("m@champion")
    with pytest.raises(ParamsError, match="there is no model 'other'"):
        registry.find("other@champion")
    with pytest.raises(ParamsError, match="m@champion names no version"):
        rollback(registry)


@pytest.mark.parametrize(("who", "why"), [("ada", "  "), ("ada", "x" * 2001), ("", "x")])
def test_a_move_without_a_reason_is_none(registry: Registry, versions: list[Version], who: str, why: str) -> None:
    with pytest.raises(ParamsError, match="wh"):
        registry.aliases.promote(versions[0], "champion", who=who, why=why, now=LATER)
    assert registry.aliases.of("m") == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is damaged"),
        (b"\xff garbage", "is damaged"),
        (b"[" * 60_000, "is damaged"),
        (b" " * (LARGEST + 1), f"has more than {LARGEST} bytes"),
        (b"{}", "is damaged"),
    ],
)
def test_a_damaged_alias_says_the_next_move(
    registry: Registry, versions: list[Version], data: bytes, words: str
) -> None:
    promote(registry, versions[0])
    registry.store.put(KEY, data)
    calls: list[Callable[[], object]] = [
        lambda: registry.find("m@champion"),
        lambda: promote(registry, versions[1]),
        lambda: rollback(registry),
        lambda: registry.aliases.of("m"),
    ]
    for call in calls:
        with pytest.raises(IntegrityError, match=words) as caught:
            call()
        assert registry.store.at(KEY) in str(caught.value)
        assert "delete that object and promote what it should name (tuneline models log m" in str(caught.value)


def test_an_alias_in_anothers_place_is_damage(registry: Registry, versions: list[Version]) -> None:
    promote(registry, versions[0])
    registry.store.put("models/m/aliases/staging.json", registry.store.whole(KEY))
    with pytest.raises(IntegrityError, match="is the alias m@champion"):
        registry.find("m@staging")


def test_after_a_lost_file_the_count_goes_on(registry: Registry, versions: list[Version]) -> None:
    promote(registry, versions[0])
    promote(registry, versions[1])
    registry.store.delete(KEY)
    assert promote(registry, versions[2]).alias.generation == 3
    assert_linear(registry)


def test_clocks_do_not_order_moves(registry: Registry, versions: list[Version]) -> None:
    for number, version in enumerate(versions):
        now = LATER - timedelta(hours=number)
        registry.aliases.promote(version, "champion", who="ada", why="x", now=now)
    assert_linear(registry)
