"""What lies in a store, and what is said where it can't be had."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tasks.core.errors import StorageError, TunelineError
from tasks.core.manifest import FileEntry
from tasks.storage.store import Store

CANARY = "canary-Secret-7c1e"


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


def complaint(store: Store, kind: type[TunelineError] = StorageError) -> str:
    with pytest.raises(kind) as caught:
        store.get("k")
    assert type(caught.value) is kind
    assert CANARY not in f"{caught.value!r} {store!r}"
    return str(caught.value)
