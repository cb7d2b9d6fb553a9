"""The store against a real S3 server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import (
    ConflictError,
    IntegrityError,
    StorageError,
)
from tasks.storage import blobs
from tasks.storage.conditions import Conditions
from tasks.storage.multipart import PART
from tasks.storage.objects import Head
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests.faulty_store import Answer, Proxy, refusal
from tests.tasks.storage.store.contents import entry, read, written


def test_bytes_go_in_and_come_out(store: Store) -> None:
    assert store.get("a/b") is None
    assert store.head("a/b") is None
    etag = store.put("a/b", b"first")
    content = store.get("a/b")
    assert content is not None
    assert (content.data, content.etag) == (b"first", etag)
    assert store.head("a/b") == Head(5, etag)
    store.put("a/b", b"")
    assert store.get("a/b") is not None
    assert read(store, "a/b") == b""
    store.delete("a/b")
    store.delete("a/b")
    assert store.get("a/b") is None


def test_two_prefixes_share_nothing(store: Store, environ: dict[str, str]) -> None:
    store.put("a", b"x")
    longer = Store.open(store.url + "0", environ)
    assert list(longer.keys("")) == []
    assert list(store.keys("")) == ["a"]


def test_listing_goes_past_one_page(store: Store) -> None:
    names = [f"many/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    store.put("other/deep/er", b"x")
    assert list(store.keys("many/")) == names
    assert sorted(store.folders("")) == ["many", "other"]
    assert list(store.folders("other/")) == ["deep"]
    assert list(store.folders("none/")) == []


def test_more_than_the_limit_is_not_read(store: Store) -> None:
    store.put("big", b"12345")
    with pytest.raises(IntegrityError, match="big has more than 4 bytes"):
        store.get("big", limit=4)
    assert store.get("big", limit=5) == store.get("big")


def test_create_and_replace_are_conditional(store: Store) -> None:
    first = store.create("k", b"1")
    with pytest.raises(ConflictError, match=f"{store.url}/k"):
        store.create("k", b"2")
    second = store.replace("k", b"2", first)
    with pytest.raises(ConflictError):
        store.replace("k", b"3", first)
    with pytest.raises(ConflictError):
        store.replace("absent", b"3", second)
    content = store.get("k")
    assert content is not None
    assert content.data == b"2"


def test_a_race_to_create_has_one_winner(store: Store) -> None:
    def attempt(number: int) -> int | None:
        try:
            store.create("k", f"{number}".encode())
        except ConflictError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(attempt, range(8)) if number is not None]
    content = store.get("k")
    assert content is not None
    assert winners == [int(content.data)]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, 20_000_000])
def test_a_file_arrives_whole(store: Store, tmp_path: Path, size: int) -> None:
    told: list[int] = []
    want = written(tmp_path / "f", size)
    store.upload("f", tmp_path / "f", want, told.append)
    assert entry(read(store, "f")) == want
    assert sum(told) == size


def test_a_large_file_goes_in_parts_with_checksums(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    behind.upload("f", tmp_path / "f", written(tmp_path / "f", 20_000_000))
    parts = [headers for method, path, headers in proxy.seen if method == "PUT" and "partNumber" in path]
    assert len(parts) == 3
    assert all("x-amz-checksum-crc32" in {name.lower() for name in headers} for headers in parts)


@pytest.mark.parametrize("size", [1000, PART + 1000])
@pytest.mark.parametrize("change", [-1, 0, 1])
def test_a_file_that_changed_never_becomes_visible(store: Store, tmp_path: Path, size: int, change: int) -> None:
    want = written(tmp_path / "f", size)
    written(tmp_path / "f", size + change)
    with pytest.raises(IntegrityError, match="changed while it was being sent"):
        store.upload("f", tmp_path / "f", want)
    assert store.head("f") is None


def test_ensure_bucket_creates_it_once(environ: dict[str, str]) -> None:
    store = Store.open(f"s3://made-{uuid.uuid4().hex[:12]}/p", environ)
    with pytest.raises(StorageError, match="no such bucket"):
        store.get("k")
    store.ensure_bucket()
    store.ensure_bucket()
    assert store.get("k") is None


def test_the_real_store_honours_conditions_and_the_probe_leaves_nothing(store: Store) -> None:
    assert store.probe_conditional_writes() == Conditions(if_none_match=True, if_match=True)
    assert list(store.keys("")) == []


def test_a_store_that_ignores_conditions_is_found_out(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    def ignore(_method: str, _path: str, answer: Answer) -> Answer:
        return Answer(200, [("ETag", '"e"')], b"") if answer.status == 412 else answer

    proxy.fault = ignore
    assert behind.probe_conditional_writes() == Conditions(if_none_match=False, if_match=False)
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(StorageError, match="ignores conditional writes"):
        Registry(behind).publish("m", {"f": tmp_path / "f"}, "i", {}, datetime.now(UTC), "me")
    assert list(behind.keys("")) == []


def test_unfinished_uploads_are_dropped_when_old(store: Store, begin: Callable[[Store, str], None]) -> None:
    begin(store, "blobs/x")
    begin(store, "other/x")
    now = datetime.now(UTC)
    assert store.abort_uploads("blobs/", now - timedelta(hours=1)) == 0
    assert store.abort_uploads("blobs/", now + timedelta(hours=1)) == 1
    assert store.abort_uploads("blobs/", now + timedelta(hours=1)) == 0
    assert store.abort_uploads("", now + timedelta(hours=1)) == 1


def test_publishing_drops_what_dead_publishers_left(
    store: Store, tmp_path: Path, begin: Callable[[Store, str], None]
) -> None:
    begin(store, blobs.key("0" * 64))
    (tmp_path / "f").write_bytes(b"x")
    later = datetime.now(UTC) + timedelta(days=2)
    Registry(store).publish("m", {"f": tmp_path / "f"}, "i", {}, later, "me")
    assert store.abort_uploads(blobs.FOLDER, later) == 0


def test_who_may_not_drop_uploads_may_publish(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    proxy.spoil = lambda method, path: refusal(403, "AccessDenied") if method == "GET" and "?uploads" in path else None
    published = Registry(behind).publish("m", {"f": tmp_path / "f"}, "i", {}, datetime.now(UTC), "me")
    assert any("?uploads" in path for _, path, _ in proxy.seen)
    assert published.created
