"""The store against a real S3 server, directly and through a proxy that misbehaves on purpose."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.core.errors import (
    ConflictError,
    IntegrityError,
    ResourceError,
    StorageError,
    TransientError,
    TunelineError,
)
from tasks.core.manifest import FileEntry
from tasks.storage import blobs, refusals
from tasks.storage.conditions import Conditions
from tasks.storage.multipart import PART
from tasks.storage.objects import Head
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests import faulty_store
from tests.faulty_store import Answer, Proxy, cut, once, refusal
from tests.registries import Service, begin_upload

CANARY = "canary-Secret-7c1e"


@pytest.fixture
def environ(s3: Service) -> dict[str, str]:
    """With the endpoint under its general name, while `root` has it under that of S3 alone."""
    found = dict(s3.environment())
    endpoint = found.pop("AWS_ENDPOINT_URL_S3")
    return found | {"AWS_ENDPOINT_URL": endpoint, "AWS_MAX_ATTEMPTS": "3"}


@pytest.fixture
def store(root: Store) -> Store:
    """A prefix of its own for each test; the client is shared, as making one takes longer than most tests."""
    return replace(root, prefix=uuid.uuid4().hex)


@pytest.fixture
def begin(environ: dict[str, str]) -> Callable[[Store, str], None]:
    """Begins a multipart upload that nobody ends."""
    return lambda store, key: begin_upload(environ, store, key)


@pytest.fixture
def proxy(environ: dict[str, str]) -> Iterator[Proxy]:
    with faulty_store.proxied(environ["AWS_ENDPOINT_URL"]) as (proxy, environ["AWS_ENDPOINT_URL"]):
        yield proxy


@pytest.fixture
def behind(proxy: Proxy, environ: dict[str, str], store: Store) -> Store:
    """The same objects as `store`, through the proxy."""
    assert proxy.upstream
    return Store.open(store.url, environ)


def entry(data: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def written(path: Path, size: int) -> FileEntry:
    data = os.urandom(size)
    path.write_bytes(data)
    return entry(data)


def read(store: Store, key: str) -> bytes:
    head = store.head(key)
    assert head is not None
    return b"".join(store.chunks(key, head))


def is_last_part(method: str, path: str) -> bool:
    return method == "POST" and "uploadId" in path


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


# What the user reads when it goes wrong


def complaint(store: Store, kind: type[TunelineError] = StorageError) -> str:
    with pytest.raises(kind) as caught:
        store.get("k")
    assert type(caught.value) is kind
    assert CANARY not in f"{caught.value!r} {store!r}"
    return str(caught.value)


@pytest.mark.parametrize("changed", [{"AWS_SECRET_ACCESS_KEY": CANARY}, {"AWS_ACCESS_KEY_ID": "nobody"}])
def test_wrong_credentials(environ: dict[str, str], store: Store, changed: dict[str, str]) -> None:
    said = complaint(Store.open(store.url, environ | changed))
    assert "does not accept the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said
    assert f"{store.url}/k at {store.endpoint}" in said
    denied = Store.open(store.url, environ | changed)
    with pytest.raises(StorageError, match="access denied, without a reason"):
        denied.head("k")
    with pytest.raises(StorageError, match="does not accept the credentials"):
        denied.ensure_bucket()


def test_no_and_half_credentials(environ: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    del environ["AWS_ACCESS_KEY_ID"]
    with pytest.raises(StorageError, match="no usable credentials: set AWS_ACCESS_KEY_ID"):
        Store.open(store.url, environ)
    del environ["AWS_SECRET_ACCESS_KEY"]
    assert "no usable credentials: set AWS_ACCESS_KEY_ID" in complaint(Store.open(store.url, environ))
    with pytest.raises(StorageError, match="mend AWS_PROFILE"):
        Store.open(store.url, environ | {"AWS_PROFILE": "nobody"})


def test_missing_bucket(environ: dict[str, str]) -> None:
    said = complaint(Store.open("s3://no-such-bucket/p", environ))
    assert "s3://no-such-bucket/p/k" in said
    assert "there is no such bucket: create it, or set TUNELINE_REGISTRY" in said


def test_nothing_listens(environ: dict[str, str], store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        secret = environ | {"AWS_ENDPOINT_URL": f"http://user:{CANARY}@{address}", "AWS_MAX_ATTEMPTS": "1"}
        said = complaint(Store.open(store.url, secret))
    assert f"at http://{address}: nothing answers there: check AWS_ENDPOINT_URL" in said


@pytest.mark.parametrize("endpoint", ["nonsense", f"{CANARY}@host", "http://"])
def test_malformed_endpoint(environ: dict[str, str], store: Store, endpoint: str) -> None:
    with pytest.raises(StorageError, match="check AWS_ENDPOINT_URL") as caught:
        Store.open(store.url, environ | {"AWS_ENDPOINT_URL": endpoint}).get("k")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("attempts", ["0", "many", "-1", "²"])
def test_malformed_attempts(environ: dict[str, str], store: Store, attempts: str) -> None:
    with pytest.raises(StorageError, match="AWS_MAX_ATTEMPTS is"):
        Store.open(store.url, environ | {"AWS_MAX_ATTEMPTS": attempts})


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", StorageError, "access denied: the store knows the credentials"),
        (400, "ExpiredToken", StorageError, "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", StorageError, "clock differs"),
        (400, "AuthorizationHeaderMalformed", StorageError, "set AWS_REGION"),
        (400, "XMinioStorageFull", ResourceError, "the store is full"),
        (501, "NotImplemented", StorageError, "tuneline doctor"),
        (418, "Teapot", StorageError, "'short and stout' (Teapot)"),
        (400, "BadDigest", IntegrityError, "changed on their way"),
    ],
)
def test_refusals_are_told_apart(
    behind: Store, proxy: Proxy, status: int, code: str, kind: type[TunelineError], words: str
) -> None:
    proxy.spoil = lambda _method, _path: refusal(status, code, "short and stout")
    said = complaint(behind, kind)
    assert words in said
    assert code in said
    assert f"{behind.url}/k at {behind.endpoint}" in said


def test_no_code_means_two_things() -> None:
    codes = [code for row in refusals.REFUSALS for code in row.codes]
    assert len(codes) == len(set(codes)) > 50


# Faults on the way


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
    seen: set[tuple[str, str]] = set()

    def fault(method: str, path: str, answer: Answer) -> Answer | None:
        first = (method, path) not in seen
        seen.add((method, path))
        return None if first and method == "PUT" else answer

    proxy.fault = fault
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
