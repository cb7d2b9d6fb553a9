"""A private file is made once, whole, and for its owner alone."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from tasks.storage.private_file import kept


def test_all_see_what_the_first_one_made(tmp_path: Path) -> None:
    path, numbers = tmp_path / "home" / "words", count()
    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: kept(path, lambda: f"words {next(numbers)}"), range(64)))
    assert texts == {path.read_text()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["words"]


def test_one_that_can_t_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept(tmp_path / "words", lambda: "words")
    assert list(tmp_path.iterdir()) == []
