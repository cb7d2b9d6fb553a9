"""A version as a plain folder on a real S3 server, and as a tar file: whole or not called so, nothing overwritten."""

from __future__ import annotations

import json
import os
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import ConflictError, IntegrityError, ParamsError, StorageError, TransientError
from tasks.storage import blobs, bundle, store
from tasks.storage.materialization import MANIFEST, Materialized, materialize
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests import faulty_store
from tests.faulty_store import Proxy, once, refusal
from tests.registries import Service, publish


@pytest.fixture
def version(registry: Registry, tmp_path: Path) -> Version:
    big = {"merged/deep/weights.bin": os.urandom(9_000_000), "merged/empty": b"", "card.md": b"# card"}
    return publish(registry, tmp_path, 1, **big)


@pytest.fixture
def target(root: Store) -> Store:
    return replace(root, prefix=f"served/{uuid.uuid4().hex}")


@pytest.fixture
def proxied(s3: Service, registry: Registry, target: Store) -> Iterator[tuple[Proxy, Store, Store]]:
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        environ = {**s3.environment(), "AWS_ENDPOINT_URL_S3": endpoint, "AWS_MAX_ATTEMPTS": "3"}
        yield proxy, Store.open(registry.store.url, environ), Store.open(target.url, environ)


def contents(place: Store) -> dict[str, bytes]:
    return {key: place.whole(key) for key in place.keys("")}


def wanted(registry: Registry, version: Version, part: str | None) -> dict[str, bytes]:
    return {path: registry.store.whole(blobs.key(entry.sha256)) for path, entry in version.select(part).items()}


def test_a_part_becomes_a_plain_folder(registry: Registry, version: Version, target: Store) -> None:
    assert materialize(registry.store, version, "merged", target) == Materialized(copied=4, found=0)
    found = contents(target)
    said = json.loads(found.pop(MANIFEST))
    assert found == wanted(registry, version, "merged")
    assert (said["version"], said["part"], said["registry"]) == ("m@v1", "merged", registry.store.url)
    assert said["files"] == {path: entry.model_dump() for path, entry in version.select("merged").items()}
    assert materialize(registry.store, version, "merged", target) == Materialized(copied=0, found=4)


def test_all_parts_and_a_bucket_of_its_own(registry: Registry, version: Version, s3: Service) -> None:
    other = Store.open(f"s3://served-{uuid.uuid4().hex[:12]}", s3.environment())
    with pytest.raises(StorageError, match="there is no such bucket"):
        materialize(registry.store, version, None, other)
    other.ensure_bucket()
    assert materialize(registry.store, version, None, other).copied == 5
    assert {key for key in other.keys("") if key != MANIFEST} == version.files.keys()


def test_a_large_file_is_copied_in_parts(
    registry: Registry,
    version: Version,
    target: Store,
    monkeypatch: pytest.MonkeyPatch,
    proxied: tuple[Proxy, Store, Store],
) -> None:
    monkeypatch.setattr(store, "COPIED_AT_ONCE", 5 * 2**20)
    proxy, source, behind = proxied
    materialize(source, version, "merged", behind)
    assert sum("partNumber" in path for method, path, _ in proxy.seen if method == "PUT") == 2
    found = contents(target)
    del found[MANIFEST]
    assert found == wanted(registry, version, "merged")
    assert materialize(registry.store, version, "merged", target) == Materialized(copied=0, found=4)


def test_what_broke_off_is_gone_on_with(
    registry: Registry, version: Version, target: Store, proxied: tuple[Proxy, Store, Store]
) -> None:
    proxy, source, behind = proxied
    proxy.spoil = lambda method, path: refusal(500, "InternalError") if method == "PUT" and "weights" in path else None
    with pytest.raises(TransientError, match=rf"copying .* to {target.url}/deep/weights.bin"):
        materialize(source, version, "merged", behind)
    assert target.head(MANIFEST) is None
    there = len(list(target.keys("")))
    done = materialize(registry.store, version, "merged", target)
    assert done == Materialized(copied=4 - there, found=there)
    assert target.head(MANIFEST)


def test_a_lost_answer_changes_nothing(
    registry: Registry, version: Version, target: Store, proxied: tuple[Proxy, Store, Store]
) -> None:
    proxy, source, behind = proxied
    proxy.fault = once(lambda _: None, "PUT", MANIFEST)
    assert materialize(source, version, "merged", behind).copied == 4
    assert len(contents(target)) == 5


def test_nothing_is_overwritten(registry: Registry, version: Version, target: Store, tmp_path: Path) -> None:
    target.put("own", b"9")
    with pytest.raises(ConflictError, match=f"{target.url}/own has other bytes"):
        materialize(registry.store, version, "merged", target)
    assert target.whole("own") == b"9" and target.head(MANIFEST) is None
    target.put("own", b"1")
    assert materialize(registry.store, version, "merged", target).copied <= 3  # equal: it may stay
    second = publish(registry, tmp_path, 2, **{"merged/deep/weights.bin": b"x", "merged/empty": b""})
    with pytest.raises(ConflictError, match="holds another version, or another part"):
        materialize(registry.store, second, "merged", target)
    target.put("deep/more", b"mine")
    with pytest.raises(ParamsError, match=r"holds other files \(deep/more\)"):
        materialize(registry.store, version, "merged", target)


def test_what_is_refused_before_anything_is_copied(registry: Registry, version: Version, target: Store) -> None:
    with pytest.raises(ParamsError, match="m@v1 has no part 'nf4'"):
        materialize(registry.store, version, "nf4", target)
    for prefix in ("", "/blobs", "/models/m"):
        inside = replace(registry.store, prefix=f"{registry.store.prefix}{prefix}")
        with pytest.raises(ParamsError, match="lies within the registry"):
            materialize(registry.store, version, "merged", inside)
    registry.store.delete(blobs.key(version.files["merged/own"].sha256))
    with pytest.raises(IntegrityError, match="own: its blob .* is missing"):
        materialize(registry.store, version, "merged", target)
    assert list(target.keys("")) == []


# As a tar file


def test_a_tar_file_holds_every_byte_and_nothing_of_this_machine(
    registry: Registry, version: Version, tmp_path: Path
) -> None:
    size = bundle.export(registry.store, version, tmp_path / "new" / "a.tar")
    bundle.export(registry.store, version, tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    assert (tmp_path / "new" / "a.tar").read_bytes() == data and len(data) == size
    with tarfile.open(tmp_path / "b.tar") as tar:
        members = tar.getmembers()
        found = {member.name: file.read() for member in members if (file := tar.extractfile(member))}
    assert [member.name for member in members] == [
        "m-v1/version.json",
        *(f"m-v1/{path}" for path in sorted(version.files)),
    ]
    assert {(member.uid, member.gid, member.mtime, member.uname) for member in members} == {(0, 0, 0, "")}
    assert found.pop("m-v1/version.json") == version.to_bytes()
    assert found == {f"m-v1/{path}": data for path, data in wanted(registry, version, None).items()}


@pytest.mark.parametrize("damage", ["flipped", "missing", "short"])
def test_a_damaged_blob_leaves_no_file(registry: Registry, version: Version, tmp_path: Path, damage: str) -> None:
    key = blobs.key(version.files["merged/deep/weights.bin"].sha256)
    data = registry.store.whole(key)
    registry.store.delete(key)
    if damage != "missing":
        registry.store.put(key, data[:-1] + (bytes([data[-1] ^ 1]) if damage == "flipped" else b""))
    with pytest.raises(IntegrityError, match="merged/deep/weights.bin: its blob"):
        bundle.export(registry.store, version, tmp_path / "out" / "a.tar")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_in_the_way_stays(registry: Registry, version: Version, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"mine")
    (tmp_path / "link.tar").symlink_to("nowhere")
    for name in ("a.tar", "link.tar"):
        with pytest.raises(ParamsError, match="exists: choose another name"):
            bundle.export(registry.store, version, tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == b"mine"
