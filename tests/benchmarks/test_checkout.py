"""The checkout that a line is measured in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import checkout


def test_the_checkout_holds_the_working_tree_and_nothing_that_a_run_made(tmp_path: Path) -> None:
    place = checkout.make(tmp_path / "place", "params.yaml")
    assert (place / "dvc.yaml").read_bytes() == (checkout.ROOT / "dvc.yaml").read_bytes()
    assert (place / ".dvc" / "config").is_file()
    assert not [name for name in ("dvc.lock", "params.yaml", ".tuneline", "models", ".venv") if (place / name).exists()]
    checkout.settle(place)
    status = subprocess.run(["git", "-C", place, "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_what_the_developer_has_set_stays_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "PREFECT_API_URL",
        "TUNELINE_REGISTRY",
        "PYTHONHASHSEED",
        "DVC_SITE_CACHE_DIR",
    ):
        monkeypatch.setenv(name, "mine")
    found = checkout.environment(tmp_path)
    assert "mine" not in found.values()
    assert found["PYTHONPATH"] == str(tmp_path)
    assert found["PATH"].startswith(str(Path(sys.executable).parent))
