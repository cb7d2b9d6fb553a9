"""Aliases on a real S3 server: one move at a time, each in the log, whoever races and wherever one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core import events
from tasks.core.errors import ConflictError, IntegrityError, ParamsError, StorageError, TransientError
from tasks.storage import blobs
from tasks.storage.aliases import LARGEST, NOWHERE, Alias, Move
from tasks.storage.model_version import Version, parse
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests import faulty_store
from tests.faulty_store import Answer, Proxy, once, refusal
from tests.registries import NOW, Service, publish

ROOT = Path(__file__).parents[3]
LATER = NOW + timedelta(days=1)
KEY = "models/m/aliases/champion.json"


@pytest.fixture
def versions(registry: Registry, tmp_path: Path) -> list[Version]:
    return [publish(registry, tmp_path, number) for number in (1, 2, 3)]


@pytest.fixture
def proxied(s3: Service, registry: Registry) -> Iterator[tuple[Proxy, Registry, dict[str, str]]]:
    """The same registry through a proxy, and the environment in which others find that."""
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        environ = {**s3.environment(), "AWS_ENDPOINT_URL_S3": endpoint, "AWS_MAX_ATTEMPTS": "3"}
        yield proxy, Registry(Store.open(registry.store.url, environ)), environ


def promote(registry: Registry, version: Version, why: str = "better", **more: int | str) -> Move:
    return registry.aliases.promote(version, "champion", who="ada", why=why, now=LATER, **more)  # type: ignore[arg-type]


def rollback(registry: Registry) -> Move:
    return registry.aliases.rollback("m", "champion", who="bob", why="worse", now=LATER)


def moves(registry: Registry) -> list[tuple[int | None, str, int | None, int]]:
    return [(e.generation, e.action, e.previous, e.version) for e in registry.log("m") if e.alias]


def assert_linear(registry: Registry) -> None:
    """Generations 1, 2, 3 ..., each from where the one before arrived; the alias is the last."""
    chain = moves(registry)
    assert [generation for generation, *_ in chain] == [*range(1, len(chain) + 1)]
    assert [previous for _, _, previous, _ in chain] == [None, *(version for *_, version in chain)][: len(chain)]
    now = registry.aliases.read("m", "champion")
    assert (now.generation, now.version) == (chain[-1][0], chain[-1][3]) if now else not chain


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


# What an alias may name


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


# Faults


PROMOTER = """
    import json, sys
    from datetime import UTC, datetime
    from tasks.storage.registry import Registry
    from tasks.storage.store import Store

    url, environ = sys.argv[1:]
    registry = Registry(Store.open(url, json.loads(environ)))
    version = registry.read("m", 2)
    registry.aliases.promote(version, "champion", who="killed", why="in time", now=datetime.now(UTC))
"""
WRITES = ("PUT", "POST", "DELETE")


def test_killed_at_every_write_a_promotion_is_whole_or_none(
    registry: Registry, versions: list[Version], proxied: tuple[Proxy, Registry, dict[str, str]]
) -> None:
    """kill -9 before the store sees write N, and after: 1, 2, 3 ... until a promotion has no such write."""
    proxy, _, environ = proxied
    promote(registry, versions[0])
    arguments = [sys.executable, "-c", textwrap.dedent(PROMOTER), registry.store.url, json.dumps(environ)]
    kills = moved = 0
    for number in range(1, 40):
        for before in (True, False):
            survived, landed = _killed_at(number, before, proxy, arguments, registry)
            kills += not survived
            moved += landed
            assert_linear(registry)
        if survived:
            break
    else:
        pytest.fail("a promotion has more writes than were expected")
    assert kills >= 2 * 8  # the lease, the probe's, the alias, the log line, the lease's end
    assert moved >= 4  # after the alias: its own answer, the line before and after, the lease before and after


def _killed_at(number: int, before: bool, proxy: Proxy, arguments: list[str], registry: Registry) -> tuple[bool, bool]:
    """Whether the promotion survived, and whether it was made; afterwards version 1 is promoted again."""
    process: list[subprocess.Popen[str]] = []
    seen = [0]

    def count(method: str, now: bool) -> None:
        if method in WRITES and now:
            seen[0] += 1
            if seen[0] == number:
                process[0].kill()
                process[0].wait()

    def spoil(method: str, _path: str) -> Answer | None:
        count(method, before)
        return None if process[0].poll() is None else refusal(500, "Gone")

    def fault(method: str, _path: str, answer: Answer) -> Answer:
        count(method, not before)
        return answer

    proxy.spoil, proxy.fault = spoil, fault
    process.append(subprocess.Popen(arguments, cwd=ROOT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}))
    code = process[0].wait()
    assert code in (0, -signal.SIGKILL)
    proxy.spoil, proxy.fault = (lambda _method, _path: None), (lambda _method, _path, answer: answer)
    found = registry.find("m@champion")
    landed = found.number == 2
    if landed:
        promote(registry, registry.read("m", 1))
    return code == 0, landed


def test_the_next_reader_completes_the_log(
    registry: Registry, versions: list[Version], proxied: tuple[Proxy, Registry, dict[str, str]]
) -> None:
    proxy, behind, _ = proxied
    proxy.spoil = lambda method, path: refusal(403, "AccessDenied") if method == "PUT" and "/log/" in path else None
    with pytest.raises(StorageError, match=r"m@champion names v1 now, but the audit log lacks its line.*access denied"):
        promote(behind, versions[0])
    assert not [key for key in registry.store.keys("models/m/log/") if "champion" in key]

    class Heard:
        def __init__(self) -> None:
            self.said: list[str] = []

        def emit(self, kind: str, fields: dict[str, str]) -> None:
            self.said.append(f"{kind}: {fields['text']}")

    with events.also(heard := Heard()):
        assert behind.find("m@champion") == versions[0]  # who may not write the log may read
    assert ["warning: the audit log lacks move 1 of m@champion" in said for said in heard.said] == [True]
    with pytest.raises(StorageError, match="access denied"):  # but nobody moves on before the line is there
        promote(behind, versions[1])
    assert registry.find("m@champion") == versions[0]
    assert moves(registry) == [(1, "promote", None, 1)]
    assert registry.log("m")[-1].why == "better"


def test_a_lost_answer_to_the_move_is_recognised(
    registry: Registry, versions: list[Version], proxied: tuple[Proxy, Registry, dict[str, str]]
) -> None:
    proxy, behind, _ = proxied
    for version in versions:
        proxy.fault = once(lambda _: None, "PUT", "/aliases/")
        assert promote(behind, version).made
        assert [method for method, path, _ in proxy.seen if "/aliases/champion" in path][-3:] == ["PUT", "PUT", "HEAD"]
    assert_linear(registry)


def test_every_answer_to_a_write_lost_once(
    registry: Registry, versions: list[Version], proxied: tuple[Proxy, Registry, dict[str, str]]
) -> None:
    proxy, behind, _ = proxied
    seen: set[tuple[str, str]] = set()

    def fault(method: str, path: str, answer: Answer) -> Answer | None:
        first = (method, path) not in seen
        seen.add((method, path))
        return None if first and method == "PUT" else answer

    proxy.fault = fault
    promote(behind, versions[0])
    promote(behind, versions[1])
    assert rollback(behind).made
    assert_linear(registry)


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown")])
def test_a_store_that_fails_leaves_the_alias_where_it_was(
    registry: Registry,
    versions: list[Version],
    proxied: tuple[Proxy, Registry, dict[str, str]],
    status: int,
    code: str,
) -> None:
    proxy, behind, _ = proxied
    promote(registry, versions[0])
    proxy.spoil = lambda method, path: refusal(status, code) if method == "PUT" and "/aliases/" in path else None
    with pytest.raises(TransientError, match=f"champion.json.*{code}"):
        promote(behind, versions[1])
    with pytest.raises(TransientError, match=code):
        proxy.spoil = lambda _method, _path: refusal(status, code)
        rollback(behind)
    assert registry.find("m@champion") == versions[0]
    assert_linear(registry)


def test_permission_denied_on_the_aliases_is_said(
    registry: Registry, versions: list[Version], proxied: tuple[Proxy, Registry, dict[str, str]]
) -> None:
    proxy, behind, _ = proxied
    proxy.spoil = lambda method, path: refusal(403, "AccessDenied") if method == "PUT" and "/aliases/" in path else None
    with pytest.raises(StorageError, match="champion.json at .*: access denied"):
        promote(behind, versions[0])
    assert not list(registry.store.keys("leases/"))


def test_a_store_that_ignores_conditions_is_refused(
    registry: Registry, versions: list[Version], proxied: tuple[Proxy, Registry, dict[str, str]]
) -> None:
    proxy, behind, _ = proxied
    proxy.fault = lambda _method, _path, answer: Answer(200, [("ETag", '"e"')], b"") if answer.status == 412 else answer
    with pytest.raises(StorageError, match="ignores conditional writes, so that two promotions"):
        promote(behind, versions[0])
    assert registry.aliases.of("m") == []


def test_a_missing_bucket_is_said(registry: Registry, versions: list[Version]) -> None:
    elsewhere = Registry(replace(registry.store, bucket="no-such-bucket"))
    with pytest.raises(StorageError, match="there is no such bucket"):
        promote(elsewhere, versions[0])
