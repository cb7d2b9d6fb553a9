"""Garbage collection on a real S3 server: what is named stays, whoever publishes, promotes or pins meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import ConflictError, IntegrityError, ParamsError, StorageError, TransientError
from tasks.storage import blobs, garbage, leases
from tasks.storage.garbage import Plan
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tasks.storage.verification import verify
from tests import faulty_store
from tests.faulty_store import Answer, Proxy, refusal
from tests.registries import Service, begin_upload, laid, publish

DAY = timedelta(days=1)


@pytest.fixture
def versions(registry: Registry, tmp_path: Path) -> list[Version]:
    return [publish(registry, tmp_path, number) for number in (1, 2, 3, 4)]


@contextmanager
def behind(registry: Registry, s3: Service) -> Generator[tuple[Proxy, Registry]]:
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        environ = {**s3.environment(), "AWS_ENDPOINT_URL_S3": endpoint, "AWS_MAX_ATTEMPTS": "3"}
        yield proxy, Registry(Store.open(registry.store.url, environ))


def later(by: timedelta = timedelta(hours=1)) -> datetime:
    """So that everything written until now is older than no grace at all."""
    return datetime.now(UTC) + by


def collect(registry: Registry, keep: int | None = None, now: datetime | None = None) -> Plan:
    return garbage.collect(registry, keep, timedelta(0), now or later(), "the collector")


def orphan(registry: Registry, data: bytes) -> str:
    """A blob that no version names, as a publisher that died leaves it."""
    key = blobs.key(hashlib.sha256(data).hexdigest())
    registry.store.put(key, data)
    return key


def standing(registry: Registry) -> list[int]:
    return [version.number for version in registry.versions("m")]


def test_what_is_named_stays(registry: Registry, versions: list[Version]) -> None:
    before = set(registry.store.keys(""))
    assert collect(registry) == Plan((), (), ())
    assert set(registry.store.keys("")) == before
    assert len(before & set(registry.store.keys(blobs.FOLDER))) == 5


def test_a_dry_run_says_what_a_run_does(registry: Registry, versions: list[Version]) -> None:
    lost = orphan(registry, b"nobody's")
    before = set(registry.store.keys(""))
    planned = garbage.plan(registry, 2, timedelta(0), later())
    assert set(registry.store.keys("")) == before
    assert [version.number for version in planned.retired] == [1, 2]
    own = {blobs.key(version.files["merged/own"].sha256) for version in versions[:2]}
    assert {item.key for item in planned.blobs} == own | {lost}
    assert planned.size == 1 + 1 + 8
    assert collect(registry, keep=2) == planned
    assert before - set(registry.store.keys("")) == own | {lost} | {f"models/m/versions/v{n}.json" for n in (1, 2)}
    assert standing(registry) == [3, 4] and verify(registry).faults == ()
    said = [(entry.version, entry.who, entry.why) for entry in registry.log("m") if entry.action == "retire"]
    assert sorted(said) == [(number, "the collector", "gc keeps the newest 2") for number in (1, 2)]
    with pytest.raises(ParamsError, match=r"m has no version v1 any more \(gc removed it\); it has v3 to v4"):
        registry.read("m", 1)


def test_aliases_what_they_go_back_to_and_pins_keep_versions(
    registry: Registry, versions: list[Version], tmp_path: Path
) -> None:
    def promote(number: int) -> None:
        registry.aliases.promote(registry.read("m", number), "champion", who="ada", why="x", now=later())

    promote(1)
    promote(2)
    registry.pins.pin(versions[2], who="ada", why="a customer", now=later())
    publish(registry, tmp_path, 5)
    assert [version.number for version in collect(registry, keep=1).retired] == [4]
    promote(3)
    promote(5)
    assert [version.number for version in collect(registry, keep=1).retired] == [1, 2]
    assert registry.aliases.rollback("m", "champion", who="ada", why="x", now=later()).alias.version == 3
    registry.pins.release("m", 3, who="ada", why="over", now=later())
    assert collect(registry, keep=1).retired == ()
    with pytest.raises(IntegrityError, match="can't go back to v2, which is gone"):
        registry.aliases.rollback("m", "champion", who="ada", why="x", now=later())
    assert verify(registry).faults == ()


def test_pins_are_kept_and_logged_once(registry: Registry, versions: list[Version]) -> None:
    def pin() -> bool:
        return registry.pins.pin(versions[0], who="ada", why="a customer", now=later())

    assert [pin(), pin()] == [True, False]
    assert registry.pins.read("m", 1).why == "a customer"
    with pytest.raises(ParamsError, match="m@v2 is not pinned"):
        registry.pins.release("m", 2, who="ada", why="x", now=later())
    registry.pins.release("m", 1, who="bob", why="over", now=later())
    assert registry.pins.numbers("m") == []
    log = [(entry.action, entry.who, entry.why) for entry in registry.log("m") if entry.action != "publish"]
    assert log == [("pin", "ada", "a customer"), ("release", "bob", "over")]
    collect(registry, keep=1)
    with pytest.raises(ParamsError, match="m has no version v1 any more"):
        pin()
    assert registry.pins.numbers("m") == []


def test_young_blobs_and_foreign_objects_stay(registry: Registry, versions: list[Version]) -> None:
    lost = orphan(registry, b"young")
    registry.store.put("blobs/README", b"mine")
    registry.store.put("blobs/sha256/zz/notes", b"mine")
    registry.store.put("data/versions/v1.json", b"the corpus is another's")
    assert garbage.collect(registry, None, DAY, later(), "me").blobs == ()
    (gone,) = garbage.collect(registry, None, DAY, later(DAY + timedelta(hours=1)), "me").blobs
    assert gone.key == lost
    assert {"blobs/README", "blobs/sha256/zz/notes", "data/versions/v1.json"} <= set(registry.store.keys(""))


@pytest.mark.parametrize("keep", [0, -1])
def test_the_newest_version_always_stays(registry: Registry, versions: list[Version], keep: int) -> None:
    with pytest.raises(ParamsError, match="the newest version of a model always stays"):
        collect(registry, keep=keep)
    assert len(collect(registry, keep=1).retired) == 3
    assert standing(registry) == [4]


def test_damage_stops_the_collection(registry: Registry, versions: list[Version]) -> None:
    lost = orphan(registry, b"lost")
    registry.aliases.promote(versions[0], "champion", who="ada", why="x", now=later())
    for key, keep in (("models/m/versions/v2.json", None), ("models/m/aliases/champion.json", 1)):
        whole = registry.store.whole(key)
        registry.store.put(key, b"{}")
        with pytest.raises(IntegrityError, match=key):
            collect(registry, keep=keep)
        registry.store.put(key, whole)
    registry.store.put("leases/x.json", b"?")
    with pytest.raises(IntegrityError, match="leases/x.json.*if nobody publishes now, delete that object"):
        collect(registry, now=datetime.now(UTC))
    assert registry.store.head(lost) and standing(registry) == [1, 2, 3, 4]
    assert registry.store.head(leases.MARKER) is None
    assert {item.key for item in collect(registry, now=later(2 * DAY)).leftovers} == {"leases/x.json"}


def test_unfinished_uploads_of_today_stay(registry: Registry, versions: list[Version], s3: Service) -> None:
    for now, left in ((later(), 1), (later(2 * DAY), 0)):
        begin_upload(s3.environment(), registry.store, blobs.key("0" * 64))
        collect(registry, now=now)
        assert registry.store.abort_uploads(blobs.FOLDER, later()) == left


# At the same time


def test_there_is_one_collector(registry: Registry, versions: list[Version]) -> None:
    now = datetime.now(UTC)
    with leases.collecting(registry.store, now, "ada"):
        with pytest.raises(ConflictError, match="ada has been collecting garbage"):
            collect(registry, now=now)
        assert registry.store.head(leases.MARKER)
    assert not registry.store.head(leases.MARKER)
    registry.store.put(leases.MARKER, leases.Collector(id="x", who="dead", at=now).to_bytes())
    collect(registry, now=now + 2 * leases.COLLECTING)  # who was killed no longer counts
    assert not registry.store.head(leases.MARKER)


def test_a_collector_stops_by_itself(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with leases.collecting(registry.store, datetime.now(UTC), "ada") as check:
        check()
        moment = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: moment + leases.COLLECTING.total_seconds() / 2)
        with pytest.raises(TransientError, match="run it again for the rest"):
            check()


def test_a_publisher_waits_for_a_collector_that_was_first(
    registry: Registry, versions: list[Version], s3: Service, tmp_path: Path
) -> None:
    """The collector is stopped with its hand on the very blob that the publisher wants to use again."""
    lost = orphan(registry, b"wanted again")
    files = laid(tmp_path / "again", {"x": b"wanted again"})
    with behind(registry, s3) as (proxy, slow), ThreadPoolExecutor(1) as pool:
        published = []

        def spoil(method: str, path: str) -> Answer | None:
            if method == "DELETE" and lost in path:
                published.append(pool.submit(registry.publish, "m", files, "again", {}, datetime.now(UTC), "bob"))
                while not list(registry.store.keys(leases.FOLDER)):
                    time.sleep(0.01)
                time.sleep(0.5)
                assert not published[0].done()
            return None

        proxy.spoil = spoil
        assert [item.key for item in collect(slow).blobs] == [lost]
        result = published[0].result()
    assert (result.version.number, result.uploaded_bytes) == (5, 12)
    assert verify(registry).faults == ()


def test_a_collector_leaves_alone_what_a_publisher_is_about_to_name(
    registry: Registry, versions: list[Version], s3: Service, tmp_path: Path
) -> None:
    """The publisher is stopped when it has found the blob there, and before it says so; the collector runs meanwhile."""
    lost, other = orphan(registry, b"wanted again"), orphan(registry, b"unwanted")
    files = laid(tmp_path / "again", {"x": b"wanted again"})
    swept: list[Plan] = []
    with behind(registry, s3) as (proxy, slow):

        def fault(method: str, path: str, answer: Answer) -> Answer:
            if method == "HEAD" and lost in path and not swept:
                swept.append(collect(registry, keep=1))
            return answer

        proxy.fault = fault
        result = slow.publish("m", files, "again", {}, datetime.now(UTC), "bob")
    assert result.uploaded_bytes == 0
    assert [item.key for item in swept[0].blobs] == [other]
    assert swept[0].retired == ()  # nor a version of a model that somebody is at
    assert verify(registry).faults == ()


def test_a_promotion_keeps_its_version_from_a_collector(
    registry: Registry, versions: list[Version], s3: Service
) -> None:
    swept: list[Plan] = []
    with behind(registry, s3) as (proxy, slow):

        def spoil(method: str, path: str) -> None:
            if method == "PUT" and "/aliases/" in path and not swept:
                swept.append(collect(registry, keep=1))

        proxy.spoil = spoil
        slow.aliases.promote(versions[0], "champion", who="ada", why="x", now=datetime.now(UTC))
    assert [plan.retired for plan in swept] == [()]
    assert [version.number for version in collect(registry, keep=1).retired] == [2, 3]
    assert registry.find("m@champion") == versions[0]


def test_publishers_and_a_collector_race(registry: Registry, tmp_path: Path) -> None:
    """Blobs come and go unnamed, and are used again at once; the collector begins again at once and gives no grace."""
    publish(registry, tmp_path, 0, "first")
    ended = threading.Event()
    removed: list[int] = []

    def run() -> None:
        while not ended.is_set():
            removed.append(len(collect(registry, now=datetime.now(UTC) + timedelta(minutes=5)).blobs))
            time.sleep(0.05)

    def publisher(name: str) -> None:
        for number in range(5):
            contents = {f"f{index}": b"%d" % (number * 3 + index) for index in range(6)}  # as the other does
            for data in contents.values():
                orphan(registry, data)
            files = laid(tmp_path / f"{name}{number}", contents)
            registry.publish(name, files, f"work {number}", {}, datetime.now(UTC), name)

    with ThreadPoolExecutor(4) as pool:
        collector = pool.submit(run)
        try:
            for done in [pool.submit(publisher, name) for name in ("a", "b")]:
                done.result()
        finally:
            ended.set()
        collector.result()
    assert sum(removed) > 0
    found = verify(registry)
    assert (found.versions, found.faults) == (11, ())
    assert not list(registry.store.keys(leases.FOLDER))


def test_numbers_are_never_given_out_again(registry: Registry, tmp_path: Path) -> None:
    """Publishers race a collector that retires all but the newest; every number is one publication's."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            collect(registry, keep=1, now=datetime.now(UTC) + timedelta(minutes=5))
            time.sleep(0.05)

    def publisher(name: str) -> list[int]:
        files = laid(tmp_path / name, {"x": name.encode()})
        told = (registry.publish("m", files, f"{name} {n}", {}, datetime.now(UTC), name) for n in range(4))
        return [published.version.number for published in told]

    with ThreadPoolExecutor(4) as pool:
        collector = pool.submit(run)
        try:
            numbers = list(itertools.chain.from_iterable(pool.map(publisher, "abc")))
        finally:
            ended.set()
        collector.result()
    assert sorted(numbers) == [*range(1, 13)]
    collect(registry, keep=1)
    assert standing(registry) == [12] and verify(registry).faults == ()
    assert sorted(entry.version for entry in registry.log("m") if entry.action == "publish") == [*range(1, 13)]


# Faults


def test_a_collector_that_never_ends_is_told_of(
    registry: Registry, versions: list[Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.3)
    registry.store.put(leases.MARKER, leases.Collector(id="x", who="eve", at=datetime.now(UTC)).to_bytes())
    with pytest.raises(TransientError, match="eve has been collecting garbage in .* run the same command again"):
        publish(registry, tmp_path, 5)
    assert not list(registry.store.keys(leases.FOLDER)) and standing(registry) == [1, 2, 3, 4]


def spoiling(*words: str) -> Callable[[str, str], Answer | None]:
    return lambda method, path: refusal(403, "AccessDenied") if method == words[0] and words[1] in path else None


def test_who_may_not_delete_publishes_and_collects_nothing(
    registry: Registry, versions: list[Version], s3: Service, tmp_path: Path
) -> None:
    lost = orphan(registry, b"lost")
    with behind(registry, s3) as (proxy, limited):
        proxy.spoil = spoiling("DELETE", "")
        assert publish(limited, tmp_path, 5).number == 5
        assert len(list(registry.store.keys(leases.FOLDER))) == 1
        with pytest.raises(StorageError, match="deleting .*access denied"):
            collect(limited)
    assert registry.store.head(lost)


def test_killed_after_each_removal_the_next_one_finishes(
    registry: Registry, versions: list[Version], s3: Service
) -> None:
    """A collector that ends at removal N, for every N, leaves whole versions."""
    orphan(registry, b"lost")
    for number in range(1, 20):
        with behind(registry, s3) as (proxy, dying):
            count = [0]

            def spoil(method: str, _path: str, count: list[int] = count, number: int = number) -> Answer | None:
                count[0] += method == "DELETE"
                return refusal(400, "Killed") if count[0] >= number else None

            proxy.spoil = spoil
            try:
                collect(dying, keep=4 - min(3, number // 2), now=later(number * timedelta(hours=2)))
                ended = True
            except StorageError:
                ended = False
        assert verify(registry).faults == ()
        if ended and number > 6:
            break
    collect(registry, keep=1, now=later(DAY * 2))
    assert standing(registry) == [4]
    assert len(list(registry.store.keys(blobs.FOLDER))) == 2 and not list(registry.store.keys(leases.FOLDER))


def keys(items: Iterable[Version]) -> list[str]:
    return [item.reference for item in items]


def test_models_are_counted_apart(registry: Registry, versions: list[Version], tmp_path: Path) -> None:
    for number in (5, 6):
        publish(registry, tmp_path, number, "other")
    empty = replace(registry.store, prefix=f"{registry.store.prefix}-empty")
    assert keys(collect(registry, keep=2).retired) == ["m@v1", "m@v2"]
    assert collect(Registry(empty), keep=1) == Plan((), (), ())
