"""The registry on another implementation of S3 than SeaweedFS: moto's server. What differs between stores is not relied on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tasks.core.errors import ConflictError, IntegrityError
from tasks.storage import blobs
from tasks.storage.aliases import NOWHERE
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tasks.storage.verification import verify
from tests.registries import NOW, alone, publish


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environ = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }  # fmt: skip
    root = Store.open("s3://models", environ)
    root.ensure_bucket()
    yield root
    server.stop()


@pytest.fixture
def registry(store: Store) -> Registry:
    return alone(store)


def after(minutes: int) -> datetime:
    """What is logged at the same moment has no order."""
    return NOW + timedelta(minutes=minutes)


def test_the_life_of_a_model(registry: Registry, tmp_path: Path) -> None:
    one, two = (publish(registry, tmp_path, number) for number in (1, 2))
    assert publish(registry, tmp_path, 1) == one and [v.number for v in registry.versions("m")] == [1, 2]
    assert registry.aliases.promote(one, "champion", who="a", why="first", now=after(1), expect=NOWHERE).made
    with pytest.raises(ConflictError, match="no longer names no version"):
        registry.aliases.promote(two, "champion", who="b", why="late", now=after(1), expect=NOWHERE)
    assert registry.aliases.promote(two, "champion", who="b", why="better", now=after(2), expect=1).made
    assert registry.aliases.rollback("m", "champion", who="a", why="worse", now=after(3)).alias.version == 1
    registry.pull(registry.find("m@champion"), "merged", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "own").read_bytes() == b"1"
    assert [entry.action for entry in registry.log("m")] == ["publish", "publish", "promote", "promote", "rollback"]
    assert verify(registry).faults == ()


def test_a_large_file_goes_in_parts_and_comes_back(registry: Registry, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 24
    version = publish(registry, tmp_path, 1, "m", **{"merged/large": data})
    registry.pull(version, "merged", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "large").read_bytes() == data
    registry.store.put(blobs.key(version.files["merged/large"].sha256), data[:-1] + b"x")
    with pytest.raises(IntegrityError, match="large: its blob .* was altered"):
        registry.pull(version, "merged", tmp_path / "again")
