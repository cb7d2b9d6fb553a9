"""Damage in the store is found and named, and never handed out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import (
    IntegrityError,
)
from tasks.storage import blobs
from tasks.storage.registry import Registry
from tasks.storage.store import SMALL
from tests.small_versions import publish


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
