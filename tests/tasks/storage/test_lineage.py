"""What a version says of its making can be read back, and what was made again is held against it file by file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core import params
from tasks.core.errors import IntegrityError
from tasks.storage import lineage
from tasks.storage.lineage import Lineage, Remade
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tests.project import ROOT
from tests.registries import laid, publish


@pytest.fixture
def version(registry: Registry, tmp_path: Path) -> Version:
    return publish(registry, tmp_path / "made", 3, **{"report/page": b"10 s", lineage.CHANGES: b"diff"})


@pytest.fixture
def again(tmp_path: Path) -> Path:
    """A workspace in which the very same models lie."""
    metrics = json.dumps({"merged": {"exact_match": 0.3}}).encode()
    files = {"models/merged/shared": b"s", "models/merged/own": b"3", "reports/run/metrics.json": metrics}
    laid(tmp_path / "again", files)
    return tmp_path / "again"


def test_the_same_bytes_are_the_same_whatever_the_report_says(version: Version, again: Path) -> None:
    assert Remade.of(version, again) == Remade(("merged/own", "merged/shared"), (), {})


def test_other_bytes_and_figures_are_named(version: Version, again: Path) -> None:
    (again / "models/merged/own").write_bytes(b"4")
    (again / "models/merged/shared").unlink()
    (again / "reports/run/metrics.json").write_text(json.dumps({"merged": {"exact_match": 0.25}}))
    remade = Remade.of(version, again)
    assert remade.differing == ("merged/own", "merged/shared")
    assert remade.metrics == {"merged.exact_match": pytest.approx(0.05)} and remade.furthest == pytest.approx(0.05)
    (again / "reports/run/metrics.json").write_text(json.dumps({"merged": {"chrf": 0.25}}))
    assert Remade.of(version, again).furthest == float("inf"), "a figure that is gone is no figure that agrees"


def made(changes: str | None, **environment: object) -> Lineage:
    return Lineage("c" * 40, changes, {}, "d", params.load(ROOT / params.FILE), environment)


def test_uncommitted_changes_come_from_the_version(registry: Registry, version: Version, tmp_path: Path) -> None:
    assert made(None).patch(version, registry.store) is None
    assert made("digest").patch(version, registry.store) == b"diff"
    other = publish(registry, tmp_path / "other", 4)
    with pytest.raises(IntegrityError, match="uncommitted changes that it does not hold"):
        made("digest").patch(other, registry.store)


def test_what_is_otherwise_here_is_said(tmp_path: Path) -> None:
    here = lineage.environment(tmp_path)
    assert made(None, **here).elsewhere(tmp_path) == []
    libraries = {**here["libraries"], "torch": "0.1"}
    (difference,) = made(None, **{**here, "libraries": libraries}).elsewhere(tmp_path)
    assert difference == f"libraries.torch 0.1 there, {here['libraries']['torch']} here"


def test_a_record_of_another_kind_is_refused(version: Version) -> None:
    with pytest.raises(IntegrityError, match="the record of m@v1 lacks 'dvc'"):
        Lineage.of(version)
