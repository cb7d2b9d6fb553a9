"""Every command of the registry before a store that misbehaves: it gets through, or says so, and a plain second run ends it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import IntegrityError, StorageError, TransientError
from tasks.storage import bundle, garbage
from tasks.storage.materialization import materialize
from tasks.storage.registry import Registry
from tasks.storage.store import SMALL, Store
from tasks.storage.verification import verify
from tests import faulty_store
from tests.faulty_store import Answer, Proxy, cut, refusal
from tests.registries import Service, alone, publish

Command = Callable[[Registry, Path], object]


def now() -> datetime:
    return datetime.now(UTC)


def target(registry: Registry) -> Store:
    return replace(registry.store, prefix=f"served/{registry.store.prefix}")


COMMANDS: dict[str, Command] = {
    "publish": lambda r, folder: publish(r, folder, 3),
    "promote": lambda r, _: r.aliases.promote(r.read("m", 2), "champion", who="ada", why="better", now=now()),
    "rollback": lambda r, _: r.aliases.rollback("m", "staging", who="ada", why="worse", now=now()),
    "pin": lambda r, _: r.pins.pin(r.read("m", 1), who="ada", why="kept", now=now()),
    "log": lambda r, _: r.log("m"),
    "verify": lambda r, _: verify(r),
    "gc": lambda r, _: garbage.collect(r, None, timedelta(0), now() + timedelta(minutes=5), "ada"),
    "pull": lambda r, folder: r.pull(r.find("m@staging"), None, folder / "pulled"),
    "materialize": lambda r, _: materialize(r.store, r.read("m", 2), None, target(r)),
    "export": lambda r, folder: bundle.export(r.store, r.read("m", 2), folder / "m.tar"),
}


@pytest.fixture
def registry(root: Store, tmp_path: Path) -> Registry:
    """Two versions, an alias that may go back, and something to collect."""
    made = alone(root)
    for number in (1, 2):
        version = publish(made, tmp_path, number, big=b"%d" % number * 200_000)
        made.aliases.promote(version, "staging", who="ada", why="next", now=now())
    made.store.put(f"blobs/sha256/00/{'0' * 64}", b"lost")
    return made


@pytest.fixture
def behind(registry: Registry, s3: Service, request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, Registry]]:
    """The registry through a proxy, each request tried three times, or as often as the parameter says."""
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        environ = {
            **s3.environment(),
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_MAX_ATTEMPTS": getattr(request, "param", "3"),
        }
        yield proxy, Registry(Store.open(registry.store.url, environ))


def every_third(spoil: Callable[[Answer], Answer | None]) -> Callable[[str, str, Answer], Answer | None]:
    count = [0]

    def fault(_method: str, _path: str, answer: Answer) -> Answer | None:
        count[0] += 1
        return spoil(answer) if count[0] % 3 == 0 else answer

    return fault


def assert_ends_well(name: str, registry: Registry, folder: Path) -> None:
    """Whatever a fault left, the same command ends now, and the registry is whole."""
    COMMANDS[name](registry, folder)
    assert verify(registry).faults == ()
    staging = [entry.generation for entry in registry.log("m") if entry.alias == "staging"]
    assert staging == [*range(1, len(staging) + 1)]


@pytest.mark.parametrize("behind", ["6"], indirect=True)  # of several requests at once one may be the third each time
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "rollback"])
def test_slow_down_now_and_then_is_no_failure(
    behind: tuple[Proxy, Registry], registry: Registry, tmp_path: Path, name: str
) -> None:
    proxy, through = behind
    proxy.fault = every_third(lambda _: refusal(503, "SlowDown"))
    COMMANDS[name](through, tmp_path / "first")
    assert_ends_well(name, registry, tmp_path / "second")


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (500, "InternalError", TransientError, "run the same command again"),
        (403, "RequestTimeTooSkewed", StorageError, "clock differs"),
    ],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_only_refuses_is_said(
    behind: tuple[Proxy, Registry], registry: Registry, tmp_path: Path, name: str, status: int, code: str,
    kind: type[Exception], says: str,
) -> None:  # fmt: skip
    proxy, through = behind
    before = set(registry.store.keys(""))
    proxy.spoil = lambda _method, _path: refusal(status, code)
    with pytest.raises(kind, match=says):
        COMMANDS[name](through, tmp_path / "first")
    assert set(registry.store.keys("")) == before
    assert_ends_well(name, registry, tmp_path / "first")


@pytest.mark.parametrize("name", ["publish", "promote", "pull"])
def test_a_slow_store_is_waited_for(
    behind: tuple[Proxy, Registry], registry: Registry, tmp_path: Path, name: str
) -> None:
    proxy, through = behind
    proxy.spoil = lambda _method, _path: time.sleep(0.1)
    COMMANDS[name](through, tmp_path / "first")
    assert len(proxy.seen) > 3
    proxy.spoil = lambda _method, _path: None
    assert_ends_well(name, registry, tmp_path / "second")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("reset", [False, True])
def test_answers_that_break_off(
    behind: tuple[Proxy, Registry], registry: Registry, tmp_path: Path, name: str, reset: bool
) -> None:
    """A large answer is gone on with, a small one is an error that says to try again; nothing is half done."""
    proxy, through = behind

    def broken(method: str, _path: str, answer: Answer) -> Answer:
        return replace(cut(answer, len(answer.body) // 2), reset=reset) if method == "GET" else answer

    proxy.fault = broken
    with pytest.raises(TransientError, match="run the same command again"):
        COMMANDS[name](through, tmp_path / "first")
    assert_ends_well(name, registry, tmp_path / "first")


@pytest.mark.parametrize("name", ["pull", "verify", "export"])
def test_a_blob_that_breaks_off_is_gone_on_with(
    behind: tuple[Proxy, Registry], registry: Registry, tmp_path: Path, name: str
) -> None:
    proxy, through = behind
    proxy.fault = lambda method, path, answer: cut(answer, 150_000) if method == "GET" and "/blobs/" in path else answer
    COMMANDS[name](through, tmp_path / "first")
    assert sum(headers.get("Range") == "bytes=150000-" for _, _, headers in proxy.seen) >= 1
    assert_ends_well(name, registry, tmp_path / "second")


@pytest.mark.parametrize(
    ("name", "denied"),
    [
        ("publish", "/versions/"),
        ("publish", "/leases/"),
        ("promote", "/leases/"),
        ("pin", "/pins/"),
        ("gc", "/gc.json"),
        ("materialize", "/served/"),
    ],
)
def test_one_prefix_is_denied(
    behind: tuple[Proxy, Registry], registry: Registry, tmp_path: Path, name: str, denied: str
) -> None:
    proxy, through = behind
    proxy.spoil = lambda method, path: refusal(403, "AccessDenied") if method == "PUT" and denied in path else None
    with pytest.raises(StorageError, match=f"{denied[:-1]}.*access denied"):
        COMMANDS[name](through, tmp_path / "first")
    proxy.spoil = lambda _method, _path: None
    assert_ends_well(name, registry, tmp_path / "first")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_bucket_is_said(registry: Registry, tmp_path: Path, name: str) -> None:
    elsewhere = Registry(replace(registry.store, bucket="no-such-bucket"))
    with pytest.raises(StorageError, match="there is no such bucket: create it"):
        COMMANDS[name](elsewhere, tmp_path)


def test_a_huge_manifest_is_not_read(registry: Registry) -> None:
    key = "models/m/versions/v1.json"
    registry.store.put(key, b" " * 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match=f"{key} has more than {SMALL} bytes"):
            registry.read("m", 1)
        assert tracemalloc.get_traced_memory()[1] < 4 * SMALL
    finally:
        tracemalloc.stop()
    assert [fault.suffer for fault in verify(registry).faults] == [("m@v1",)]
    with pytest.raises(IntegrityError, match=key):
        garbage.plan(registry, None, timedelta(0), now())
