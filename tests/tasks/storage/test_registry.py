"""The registry on a real S3 server: what is published comes back, once, whole, whoever races and whatever breaks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core import events
from tasks.core.errors import (
    IntegrityError,
    ParamsError,
)
from tasks.storage import blobs
from tasks.storage.audit import LogEntry
from tasks.storage.multipart import PART
from tasks.storage.registry import Published, Registry
from tasks.storage.store import Store
from tests.project import ROOT
from tests.registries import NOW, Service, laid
from tests.small_versions import contents_of, publish, state


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
