"""A folder as a model version is: a few big shards, an adapter, small files; random bytes, so that nothing compresses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

MEGABYTE = 10**6
SHARDS, SMALL = 4, 10
ADAPTER = Path("adapter") / "adapter_model.safetensors"


def write(folder: Path, megabytes: int) -> None:
    """Four shards, an adapter of a hundredth of the whole, and ten files of 1 to 100 kB."""
    shard = megabytes * MEGABYTE * 99 // 100 // SHARDS
    for number in range(1, SHARDS + 1):
        _random(folder / "merged" / f"model-{number:05}-of-{SHARDS:05}.safetensors", shard)
    for number in range(1, SMALL + 1):
        _random(folder / "merged" / f"small-{number}.json", number * number * 1000)
    other_adapter(folder, megabytes)


def other_adapter(folder: Path, megabytes: int) -> None:
    _random(folder / ADAPTER, megabytes * MEGABYTE // 100)


def digest(folder: Path) -> str:
    """Of every path and its bytes."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def _random(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for done in range(0, size, MEGABYTE):
            file.write(os.urandom(min(MEGABYTE, size - done)))
