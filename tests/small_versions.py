"""A small version's files, published without more ado, and what lies in a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.storage.registry import Published, Registry
from tasks.storage.store import Store
from tests.registries import NOW


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(registry: Registry, files: Mapping[str, Path], identity: str = "work") -> Published:
    return registry.publish("m", files, identity, {"commit": "c0ffee"}, NOW, "ada")


def state(store: Store) -> dict[str, str]:
    """Everything the store holds below its prefix, by entity tag."""
    heads = {key: store.head(key) for key in store.keys("")}
    return {key: head.etag for key, head in heads.items() if head}
