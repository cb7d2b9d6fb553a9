"""The registry on a real S3 server: what is published comes back, once, whole, whoever races and whatever breaks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core import events
from tasks.core.errors import (
    DataError,
    IntegrityError,
    ParamsError,
    ResourceError,
    StorageError,
    TunelineError,
)
from tasks.storage import blobs, destination
from tasks.storage.audit import LogEntry
from tasks.storage.multipart import PART
from tasks.storage.registry import Published, Registry
from tasks.storage.store import SMALL, Store
from tests.registries import Service

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def model(tmp_path: Path) -> dict[str, Path]:
    """A small version: two parts, an empty file, two equal files, and one beside the parts."""
    contents = {
        "card.md": b"# card",
        "merged/config.json": b"{}",
        "merged/deep/weights.bin": os.urandom(300_000),
        "merged/empty": b"",
        "nf4/config.json": b"{}",
    }
    return laid(tmp_path / "model", contents)


def laid(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(registry: Registry, files: Mapping[str, Path], identity: str = "work") -> Published:
    return registry.publish("m", files, identity, {"commit": "c0ffee"}, NOW, "ada")


def state(store: Store) -> dict[str, str]:
    """Everything the store holds below its prefix, by entity tag."""
    heads = {key: store.head(key) for key in store.keys("")}
    return {key: head.etag for key, head in heads.items() if head}


def test_a_version_comes_back_as_it_was(registry: Registry, tmp_path: Path) -> None:
    big = laid(
        tmp_path / "in", {"merged/model.safetensors": os.urandom(20_000_000), "merged/a b é": b"1", "card": b"2"}
    )
    published = publish(registry, big)
    assert published.created
    assert published.uploaded_bytes == published.version.size == 20_000_002
    assert published.reused_bytes == 0
    assert published.version == registry.read("m") == registry.read("m", 1) == registry.versions("m")[0]
    assert published.version.record == {"commit": "c0ffee"}
    assert registry.uri(published.version) == f"{registry.store.url}/models/m/versions/v1.json"
    registry.pull(published.version, None, tmp_path / "out")
    assert contents_of(tmp_path / "out") == {name: path.read_bytes() for name, path in big.items()}


def test_the_layout_is_the_documented_one(registry: Registry, model: dict[str, Path]) -> None:
    publish(registry, model)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in model.values()}
    keys = set(registry.store.keys(""))
    (log,) = (key for key in keys if key.startswith("models/m/log/20260102T030405.678901Z-"))
    blob_keys = {f"blobs/sha256/{digest[:2]}/{digest}" for digest in digests}
    assert len(blob_keys) == 4
    assert keys == blob_keys | {"registry.json", "models/m/versions/v1.json", log}
    manifest = hashlib.sha256(registry.store.whole("models/m/versions/v1.json")).hexdigest()
    assert registry.log("m") == [LogEntry(at=NOW, action="publish", who="ada", version=1, manifest=manifest)]
    assert registry.names() == ["m"]


def test_a_part_is_pulled_without_its_folder(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    version = publish(registry, model).version
    assert version.parts == ["merged", "nf4"]
    lying = registry.pull(version, "merged", tmp_path / "new" / "out")
    assert set(lying) == set(contents_of(tmp_path / "new" / "out")) == {"config.json", "deep/weights.bin", "empty"}
    with pytest.raises(ParamsError, match=r"m@v1 has no part 'gguf'; it has: merged, nf4"):
        registry.pull(version, "gguf", tmp_path / "other")


def test_publishing_twice_is_one_version_and_writes_nothing(registry: Registry, model: dict[str, Path]) -> None:
    first = publish(registry, model)
    before = state(registry.store)
    second = publish(registry, model)
    assert second == Published(first.version, created=False, uploaded_bytes=0, reused_bytes=first.version.size)
    assert state(registry.store) == before


def test_another_version_sends_only_what_is_new(registry: Registry, model: dict[str, Path]) -> None:
    first = publish(registry, model)
    model["card.md"].write_bytes(b"# another card")
    second = publish(registry, model, "other work")
    assert (second.version.number, second.uploaded_bytes) == (2, 14)
    assert second.reused_bytes == 300_002  # the two equal files are one blob
    assert registry.versions("m") == [first.version, second.version]
    assert [line.version for line in registry.log("m")] in ([1, 2], [2, 1])  # one and the same moment


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=7))
def test_numbers_follow_the_first_publication_of_each_identity(
    registry: Registry, model: dict[str, Path], identities: list[str]
) -> None:
    fresh = Registry(replace(registry.store, prefix=uuid.uuid4().hex))
    for identity in identities:
        publish(fresh, model, identity)
    assert [version.identity for version in fresh.versions("m")] == list(dict.fromkeys(identities))
    assert [version.number for version in fresh.versions("m")] == [*range(1, len(set(identities)) + 1)]


# Races


def test_threads_that_race_number_without_gaps(registry: Registry, model: dict[str, Path]) -> None:
    identities = ["same", "a", "same", "b", "same", "c", "same", "d"]
    with ThreadPoolExecutor(len(identities)) as pool:
        published = list(pool.map(lambda identity: publish(registry, model, identity), identities))
    assert_one_each(registry, identities)
    made = [result.version.identity for result in published if result.created]
    assert sorted(made) == sorted(set(identities))
    assert all(result.version == registry.read("m", result.version.number) for result in published)


PUBLISHER = """
    import json, sys, time
    from datetime import UTC, datetime
    from pathlib import Path
    from tasks.core import events
    from tasks.storage.registry import Registry
    from tasks.storage.store import Store

    {before}
    url, environ, folder, identity = sys.argv[1:]
    registry = Registry(Store.open(url, json.loads(environ)))
    files = {{path.name: path for path in Path(folder).iterdir()}}
    print("ready", flush=True)
    sys.stdin.readline()
    published = registry.publish("m", files, identity, {{}}, datetime.now(UTC), "a process")
    print(published.version.number, published.created)
"""


def publisher(store: Store, service: Service, folder: Path, identity: str, before: str = "") -> subprocess.Popen[str]:
    """A process that says it is ready, waits for a line, publishes the folder, and says number and whether it was first."""
    code = textwrap.dedent(PUBLISHER).format(before=before)
    arguments = [store.url, json.dumps(dict(service.environment())), str(folder), identity]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_processes_that_race_number_without_gaps(registry: Registry, s3: Service, tmp_path: Path) -> None:
    laid(tmp_path / "in", {"f": os.urandom(100_000), "g": b"2"})
    identities = ["same", "other", "same"]
    processes = [publisher(registry.store, s3, tmp_path / "in", identity) for identity in identities]
    try:
        assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * len(processes)
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert_one_each(registry, identities)
    assert said[0][0] == said[2][0] != said[1][0]
    assert [created for _, created in said].count("True") == 2


def assert_one_each(registry: Registry, identities: list[str]) -> None:
    versions = registry.versions("m")
    assert [version.number for version in versions] == [*range(1, len(set(identities)) + 1)]
    assert {version.identity for version in versions} == set(identities)
    assert sorted(line.version for line in registry.log("m")) == [version.number for version in versions]


KILLED_IN_THE_MIDDLE = """
import os, signal
class Bomb:
    def emit(self, kind, fields):
        if kind == "progress" and fields["done"] >= 0.75 * fields["total"]:
            os.kill(os.getpid(), signal.SIGKILL)
events.send_to(Bomb())
"""


def test_a_publisher_killed_among_its_blobs_leaves_no_version(registry: Registry, s3: Service, tmp_path: Path) -> None:
    size = 1_000_000
    files = laid(tmp_path / "in", {f"f{number}": os.urandom(size) for number in range(16)})
    process = publisher(registry.store, s3, tmp_path / "in", "work", before=KILLED_IN_THE_MIDDLE)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    assert registry.names() == []
    sent = [
        key for key in registry.store.keys(blobs.FOLDER) if (head := registry.store.head(key)) and head.size == size
    ]
    assert 0 < len(sent) < len(files)
    published = publish(registry, files)
    assert published.created
    assert published.version.number == 1
    assert published.reused_bytes >= len(sent) * size  # the server may still have finished what it had received
    assert published.uploaded_bytes + published.reused_bytes == len(files) * size


@pytest.fixture
def watcher() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls a function at the first progress event."""

    class Once:
        def __init__(self, action: Callable[[], None]) -> None:
            self.left = [action]

        def emit(self, kind: str, fields: dict[str, Any]) -> None:
            assert kind == "progress", fields
            if self.left:
                self.left.pop()()

    yield lambda action: events.send_to(Once(action))
    events.send_to(events.Silent())


def test_a_file_that_changes_while_it_is_sent_is_no_version(
    registry: Registry, tmp_path: Path, watcher: Callable[[Callable[[], None]], None]
) -> None:
    files = laid(tmp_path / "in", {"weights": os.urandom(2 * PART + 5)})

    def change() -> None:
        with files["weights"].open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    watcher(change)
    with pytest.raises(IntegrityError, match="weights changed while it was being sent"):
        publish(registry, files)
    assert list(registry.store.keys("")) == ["registry.json"]


def test_what_was_verified_is_held_against_what_is_sent(registry: Registry, tmp_path: Path) -> None:
    """One reading less, and no trust more: a file that is another by then is no version."""
    files = laid(tmp_path / "in", {"merged/weights": b"new", "merged/config": b"{}"})
    verified = blobs.measure(files, {})
    files["merged/weights"].write_bytes(b"old")
    with pytest.raises(IntegrityError, match="weights changed while it was being sent"):
        registry.publish("m", files, "work", {}, NOW, "ada", verified)
    assert registry.names() == []
    files["merged/weights"].write_bytes(b"new")
    assert registry.publish("m", files, "work", {}, NOW, "ada", verified).version.files == verified


def test_an_interrupt_stops_the_other_transfers() -> None:
    meter = blobs.Meter("sent", 100)
    began = threading.Event()

    def work(item: str) -> None:
        if item == "endless":
            began.set()
            while True:
                meter.add(1)
        began.wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blobs.each(work, ["endless", "interrupted"], meter)


# What can't be published


@pytest.mark.parametrize(
    "name", ["../x", "a/../../b", "%2e%2e", "a\0", "a" * 64, "аdа", "-a", ".", "", "A", "a b", "a\n", "a@v1"]
)
def test_names_that_could_not_be_keys(registry: Registry, model: dict[str, Path], name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: registry.publish(name, model, "i", {}, NOW, "ada"),
        lambda: registry.read(name),
        lambda: registry.versions(name),
        lambda: registry.log(name),
    ]
    for call in calls:
        with pytest.raises(ParamsError, match="is no model name"):
            call()
    assert not registry.store.head("models")


@pytest.mark.parametrize("path", ["../a", "/a", "a/../b", "a//b", "", ".", "a\\b", "a\0b", "a\nb", "./a", "a/"])
def test_paths_that_climb(registry: Registry, model: dict[str, Path], path: str) -> None:
    with pytest.raises(DataError, match="is not a plain relative path"):
        publish(registry, {path: model["card.md"]})
    assert list(registry.store.keys("")) == ["registry.json"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"x": float("nan")}, "not JSON"),
        ({"x": {1}}, "not JSON"),
        ({"x": "\ud800"}, "not JSON"),
        ({"x": json.loads("[" * 250 + "]" * 250)}, "recursion"),
        ({"x": "y" * SMALL}, "shorten its record"),
    ],
)
def test_records_that_could_not_be_read_back(
    registry: Registry, model: dict[str, Path], record: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        registry.publish("m", model, "i", record, NOW, "ada")
    assert list(registry.store.keys("")) == ["registry.json"]


def test_other_things_that_can_not_be_published(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="files"):
        publish(registry, {})
    with pytest.raises(DataError, match="identity"):
        publish(registry, model, "")
    with pytest.raises(DataError, match="both a file and the folder"):
        publish(registry, {"a": model["card.md"], "a/b": model["card.md"]})
    with pytest.raises(ResourceError, match="absent"):
        publish(registry, {"a": tmp_path / "absent"})
    with pytest.raises(DataError, match="created"):
        registry.publish("m", model, "i", {}, NOW.replace(tzinfo=None), "ada")
    assert list(registry.store.keys("")) == ["registry.json"]


def test_a_missing_bucket_is_said_before_anything_is_read(root: Store) -> None:
    registry = Registry(replace(root, bucket="no-such-bucket"))
    with pytest.raises(StorageError, match="there is no such bucket"):
        publish(registry, {"a": Path("absent")})


def test_what_is_not_there(registry: Registry, model: dict[str, Path]) -> None:
    assert registry.names() == []
    with pytest.raises(ParamsError, match="there is no model 'm' in .*; known: no models yet"):
        registry.read("m")
    publish(registry, model)
    with pytest.raises(ParamsError, match="there is no model 'other' in .*; known: m"):
        registry.versions("other")
    with pytest.raises(ParamsError, match="m has no version v2; it has v1 to v1"):
        registry.read("m", 2)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b'{"format": 2}', StorageError, "format 2 and this tuneline knows 1"),
        (b'{"form": 1}', IntegrityError, "registry.json is damaged"),
        (b"", IntegrityError, "registry.json is damaged"),
    ],
)
def test_a_registry_of_another_format(
    registry: Registry, model: dict[str, Path], said: bytes, kind: type[TunelineError], words: str
) -> None:
    publish(registry, model)
    registry.store.put("registry.json", said)
    for call in (registry.names, lambda: registry.read("m"), lambda: publish(registry, model, "more")):
        with pytest.raises(kind, match=words):
            call()


# Damage in the store


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "was altered"),
        (lambda data: data[:-1], "has 299999 bytes instead of 300000"),
        (lambda _: None, "is missing"),
    ],
)
def test_a_damaged_blob_is_never_handed_out(
    registry: Registry,
    model: dict[str, Path],
    tmp_path: Path,
    damage: Callable[[bytes], bytes | None],
    words: str,
) -> None:
    version = publish(registry, model).version
    key = blobs.key(version.files["merged/deep/weights.bin"].sha256)
    spoilt = damage(model["merged/deep/weights.bin"].read_bytes())
    if spoilt is None:
        registry.store.delete(key)
    else:
        registry.store.put(key, spoilt)
    with pytest.raises(IntegrityError, match=rf"deep/weights.bin: its blob {registry.store.at(key)} {words}"):
        registry.pull(version, "merged", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    registry.pull(version, "nf4", tmp_path / "out")  # the other part is whole


def test_a_truncated_blob_is_sent_again(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    version = publish(registry, model).version
    registry.store.put(blobs.key(version.files["card.md"].sha256), b"#")
    assert publish(registry, model, "other work").uploaded_bytes == len(b"# card")
    registry.pull(version, None, tmp_path / "out")


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return edit


ENTRY = {"sha256": "0" * 64, "size": 0}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _: b"", "is damaged"),
        (lambda _: b"\xff\x00 garbage", "is damaged"),
        (lambda _: b"[" * 100_000, "is damaged"),
        (lambda data: data[:-5], "is damaged"),
        (lambda data: data + b" " * SMALL, f"has more than {SMALL} bytes"),
        (edited(lambda v: v["files"].update({"../../etc/passwd": ENTRY})), "'../../etc/passwd' is not a plain"),
        (edited(lambda v: v["files"].update({"a": {"sha256": "../../x", "size": 0}})), "'a' has no SHA-256"),
        (edited(lambda v: v["files"].update({"a": {"sha256": "0" * 64, "size": -1}})), "'a' has no SHA-256"),
        (edited(lambda v: v["files"].clear()), "files"),
        (edited(lambda v: v.update(number=2)), "is the manifest of m@v2"),
        (edited(lambda v: v.update(name="other")), "is the manifest of other@v1"),
        (edited(lambda v: v.update(more=1)), "more"),
        (edited(lambda v: v.pop("identity")), "identity"),
    ],
)
def test_a_damaged_manifest_is_refused(
    registry: Registry, model: dict[str, Path], damage: Callable[[bytes], bytes], words: str
) -> None:
    publish(registry, model)
    key = "models/m/versions/v1.json"
    content = registry.store.get(key)
    assert content
    registry.store.put(key, damage(content.data))
    for call in (lambda: registry.read("m"), lambda: registry.versions("m"), lambda: publish(registry, model, "i")):
        with pytest.raises(IntegrityError, match=words) as caught:
            call()
        assert registry.store.at(key) in str(caught.value)


def test_foreign_keys_are_no_versions(registry: Registry, model: dict[str, Path]) -> None:
    version = publish(registry, model).version
    for name in ("v02.json", "v0.json", "v2.json.bak", "2.json", "v2", "v-1.json", "v9999999999.json"):
        registry.store.put(f"models/m/versions/{name}", b"?")
    registry.store.put("models/Not-a-name/x", b"?")
    assert registry.versions("m") == [version]
    assert registry.names() == ["m"]


# The destination of a pull


def test_pulling_again_fetches_nothing(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    version = publish(registry, model).version
    registry.pull(version, None, tmp_path / "out")
    for entry in version.files.values():
        registry.store.delete(blobs.key(entry.sha256))
    registry.pull(version, None, tmp_path / "out")
    (tmp_path / "out" / "card.md").write_bytes(b"# carD")
    with pytest.raises(ParamsError, match="holds other files"):
        registry.pull(version, None, tmp_path / "out")


def test_a_taken_destination_is_refused_and_left_alone(
    registry: Registry, model: dict[str, Path], tmp_path: Path
) -> None:
    version = publish(registry, model).version
    laid(tmp_path, {"full/mine": b"x", "elsewhere/mine": b"y", "file": b"z"})
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = contents_of(tmp_path)
    for name in ("full", "file", "link", "dangling"):
        with pytest.raises(ParamsError, match=f"{tmp_path / name} "):
            registry.pull(version, None, tmp_path / name)
    (tmp_path / "shut.partial").write_bytes(b"")
    with pytest.raises(ResourceError, match="shut"):
        registry.pull(version, None, tmp_path / "shut")
    (tmp_path / "shut.partial").unlink()
    assert contents_of(tmp_path) == before
    (tmp_path / "empty").mkdir()
    registry.pull(version, None, tmp_path / "empty")
    assert set(contents_of(tmp_path / "empty")) == set(version.files)


def test_what_a_killed_pull_left_is_replaced(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    version = publish(registry, model).version
    laid(tmp_path / "out.partial", {"card.md": b"half", "old/file": b""})
    (tmp_path / "out.partial" / "link").symlink_to(tmp_path)
    registry.pull(version, None, tmp_path / "out")
    assert set(contents_of(tmp_path / "out")) == set(version.files)
    assert not (tmp_path / "out.partial").exists()


def test_two_pulls_into_one_place_do_not_mix(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    version = publish(registry, model).version
    laid(tmp_path / "out.partial", {"half": b""})
    descriptor = os.open(tmp_path / "out.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ResourceError, match="is being filled by another command"):
        registry.pull(version, None, tmp_path / "out")
    assert (tmp_path / "out.partial" / "half").exists()
    os.close(descriptor)
    registry.pull(version, None, tmp_path / "out")


def test_a_refused_write_leaves_nothing(registry: Registry, model: dict[str, Path], tmp_path: Path) -> None:
    version = publish(registry, model).version
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ResourceError, match=f"pulling m@v1 to {tmp_path / 'out'}"):
            registry.pull(version, None, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("out*"))


def test_a_disk_that_is_too_small_is_said_first(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ResourceError, match=rf"needs {2 * free} bytes and its disk has \d+ free"):
        destination.check(tmp_path / "new" / "out", 2 * free)
    assert not (tmp_path / "new").exists()
