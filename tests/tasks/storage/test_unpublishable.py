"""What can't be published, or asked for, is said before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import (
    DataError,
    IntegrityError,
    ParamsError,
    ResourceError,
    StorageError,
    TunelineError,
)
from tasks.storage.registry import Registry
from tasks.storage.store import SMALL, Store
from tests.registries import NOW
from tests.small_versions import publish


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
