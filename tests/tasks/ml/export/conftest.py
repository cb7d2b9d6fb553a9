"""Bases on which quantisation shows: weights large enough that every layer counts, rows of 64 and 128."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("wide-base"), "qwen", hidden=64)
