"""Where a pull goes: the whole selection, or what lay there before."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
from pathlib import Path

import pytest

from tasks.core.errors import (
    ParamsError,
    ResourceError,
)
from tasks.storage import blobs, destination
from tasks.storage.registry import Registry
from tests.registries import laid
from tests.small_versions import contents_of, publish


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
