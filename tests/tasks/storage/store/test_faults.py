"""Throttling, lost answers, cut downloads, other writers on the way to a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.core.errors import (
    ConflictError,
    StorageError,
    TransientError,
    TunelineError,
)
from tasks.storage.multipart import PART
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests.faulty_store import Answer, Proxy, cut, first_put_lost, once, refusal
from tests.tasks.storage.store.contents import complaint, entry, read, written


def is_last_part(method: str, path: str) -> bool:
    return method == "POST" and "uploadId" in path


def test_every_third_answer_is_slow_down(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    count = [0]

    def fault(_method: str, _path: str, answer: Answer) -> Answer:
        count[0] += 1
        return refusal(503, "SlowDown") if count[0] % 3 == 0 else answer

    proxy.fault = fault
    want = written(tmp_path / "f", PART + 5)
    behind.upload("f", tmp_path / "f", want)
    assert entry(read(behind, "f")) == want
    assert count[0] >= 6


def test_nothing_but_slow_down_is_transient(environ: dict[str, str], proxy: Proxy, store: Store) -> None:
    proxy.spoil = lambda _method, _path: refusal(503, "SlowDown")
    said = complaint(Store.open(store.url, environ | {"AWS_MAX_ATTEMPTS": "2"}), TransientError)
    assert "asks for fewer requests" in said
    assert len(proxy.seen) == 2


def test_a_lost_answer_to_a_conditional_write_is_recognised(behind: Store, store: Store, proxy: Proxy) -> None:
    proxy.fault = once(lambda _: None, "PUT")
    etag = behind.create("k", b"mine")
    assert [method for method, *_ in proxy.seen] == ["PUT", "PUT", "HEAD"]
    proxy.fault = once(lambda _: None, "PUT")
    behind.replace("k", b"mine too", etag)
    content = store.get("k")
    assert content is not None
    assert content.data == b"mine too"
    proxy.fault = once(lambda _: None, "PUT")
    with pytest.raises(ConflictError):
        behind.create("k", b"mine too")


def test_a_lost_answer_to_the_last_part_is_recognised(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    want = written(tmp_path / "f", PART + 5)
    answers = [lambda answer: None, lambda answer: refusal(404, "NoSuchUpload")]  # Amazon forgets what is complete
    proxy.fault = lambda method, path, answer: answers.pop(0)(answer) if is_last_part(method, path) else answer
    behind.upload("f", tmp_path / "f", want)
    assert answers == []
    assert entry(read(behind, "f")) == want


def test_an_upload_that_somebody_aborted_is_no_success(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    want = written(tmp_path / "f", PART + 5)
    proxy.spoil = lambda method, path: refusal(404, "NoSuchUpload") if is_last_part(method, path) else None
    with pytest.raises(StorageError, match="NoSuchUpload"):
        behind.upload("f", tmp_path / "f", want)
    assert behind.head("f") is None


def test_publishing_survives_every_first_answer_being_lost(behind: Store, proxy: Proxy, tmp_path: Path) -> None:
    proxy.fault = first_put_lost()
    (tmp_path / "f").write_bytes(b"x")
    published = Registry(behind).publish("m", {"f": tmp_path / "f"}, "i", {}, datetime.now(UTC), "me")
    assert published.created
    assert Registry(behind).versions("m") == [published.version]
    assert len(Registry(behind).log("m")) == 1


def test_another_writer_in_flight_is_waited_for(behind: Store, proxy: Proxy) -> None:
    proxy.fault = once(lambda _: refusal(409, "ConditionalRequestConflict"), "PUT")
    behind.create("k", b"1")
    assert [method for method, *_ in proxy.seen] == ["PUT", "PUT", "HEAD"]  # the proxy let the first one through


def test_another_writer_always_in_flight_is_transient(behind: Store, proxy: Proxy) -> None:
    proxy.spoil = lambda _method, _path: refusal(409, "ConditionalRequestConflict")
    with pytest.raises(TransientError, match="another writer was at work"):
        behind.create("k", b"1")


def test_a_cut_download_goes_on_where_it_broke(behind: Store, store: Store, proxy: Proxy) -> None:
    data = os.urandom(3_000_000)
    store.put("k", data)
    proxy.fault = lambda method, _, answer: cut(answer, 1_200_000) if method == "GET" else answer
    assert read(behind, "k") == data
    begins = [headers["Range"] for method, _, headers in proxy.seen if method == "GET"]
    assert begins[0] == "bytes=0-"
    assert len(begins) == len(set(begins)) > 2


def test_a_download_that_never_gets_on_is_transient(behind: Store, store: Store, proxy: Proxy) -> None:
    store.put("k", b"12345")
    proxy.fault = lambda method, _, answer: cut(answer, 0) if method == "GET" else answer
    with pytest.raises(TransientError, match="the connection broke"):
        read(behind, "k")


def test_a_connection_reset_within_an_answer_is_transient(behind: Store, proxy: Proxy) -> None:
    proxy.fault = lambda _method, _path, answer: replace(cut(answer, 10), reset=True)
    with pytest.raises(TransientError, match="the connection broke"):
        list(behind.keys(""))
    with pytest.raises(TransientError, match="the connection broke"):
        behind.get("absent")


def test_a_cut_listing_is_transient(behind: Store, proxy: Proxy) -> None:
    behind.put("k", b"1")
    proxy.fault = lambda _method, _path, answer: cut(answer, 100)
    with pytest.raises(TransientError, match="run the same command again"):
        list(behind.keys(""))


@pytest.mark.parametrize("status", [200, 404])
def test_a_web_server_is_no_store(behind: Store, proxy: Proxy, status: int) -> None:
    proxy.spoil = lambda _method, _path: Answer(status, [("Content-Type", "text/html")], b"<!doctype html><p>Hello</p>")
    attempts: list[Callable[[], object]] = [
        lambda: list(behind.keys("")),
        lambda: behind.put("k", b""),
        lambda: behind.create("k", b""),
        lambda: behind.replace("k", b"", "etag"),
        behind.ensure_bucket,
        behind.probe_conditional_writes,
    ]
    if status == 200:
        attempts += [lambda: behind.get("k"), lambda: behind.head("k")]
    for attempt in attempts:
        with pytest.raises(TunelineError, match="AWS_ENDPOINT_URL"):
            attempt()


def test_an_object_replaced_during_its_download_is_no_mixture(store: Store) -> None:
    store.put("k", os.urandom(3_000_000))
    head = store.head("k")
    assert head is not None
    store.put("k", os.urandom(3_000_000))
    with pytest.raises(ConflictError):
        b"".join(store.chunks("k", head))
