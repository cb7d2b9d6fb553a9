"""A move is whole or none, wherever one is killed and whatever answer is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from tasks.core import events
from tasks.core.errors import StorageError, TransientError
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tests.faulty_store import Answer, Proxy, first_put_lost, once, refusal
from tests.project import ROOT
from tests.tasks.storage.alias.moving import assert_linear, moves, promote, rollback

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
    proxy.fault = first_put_lost()
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
