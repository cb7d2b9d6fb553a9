"""The registry's benchmark in its quick form, against a real store; peers that are not there are named with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.harness import Options
from benchmarks.measuring import checkout
from benchmarks.transfers import model
from benchmarks.transfers.copiers import COPIERS, Copier


def test_the_quick_form_measures_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a peer is missing; those that `make peers` has made run beside."""
    monkeypatch.setenv("BENCHMARK_RCLONE", "no-such-program")
    found = registry.measured(Options(quick=True, rounds=1))
    assert found.failures == {}
    assert {"publish: tuneline", "again: tuneline, new adapter", "pull: tuneline"} <= found.absolute.keys()
    assert 0 < found.ratios["again: sent / whole"]["high"] < 0.02
    assert "not compared: rclone: BENCHMARK_RCLONE is no-such-program" in found.tables[-1]
    for copier in COPIERS:
        assert (f"publish: wall, tuneline / {copier.name}" in found.ratios) == (not copier.absent())


@pytest.mark.parametrize("copier", COPIERS, ids=lambda copier: copier.variable)
def test_a_missing_program_says_how_it_is_had(copier: Copier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(copier.variable, raising=False)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"let {copier.variable} name the program" in copier.absent()
    monkeypatch.setenv(copier.variable, sys.executable)
    assert (copier.program, copier.absent()) == (sys.executable, "")


def test_a_model_differs_in_its_adapter_alone(tmp_path: Path) -> None:
    model.write(tmp_path, 10)
    before, size = model.digest(tmp_path), sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 10e6 < size < 10.5e6
    shard = next((tmp_path / "merged").glob("*.safetensors")).read_bytes()
    model.other_adapter(tmp_path, 10)
    assert model.digest(tmp_path) != before
    assert next((tmp_path / "merged").glob("*.safetensors")).read_bytes() == shard
