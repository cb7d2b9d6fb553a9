"""A run whose training, or whose flow, is killed: nothing goes on for nobody, and the same command ends as if undisturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core import manifest
from tests.project import Project
from tests.serving import processes


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, services: dict[str, str]) -> Project:
    name = f"tiny-{tmp_path.name[-40:]}".lower().replace("_", "-")
    made = Project(tmp_path / "project", tiny_base, services, publish={"name": name}, quantize={"formats": []})
    made("tuneline", "data", "ingest", "data/sample")
    return made


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_same_bytes(project: Project, tmp_path: Path) -> None:
    """kill -9 of the training step in the middle of a run, which begins it again."""
    slow = ["--set", "train.epochs=30"]
    undisturbed = project.run(*slow)
    wanted = _adapter(project, undisturbed["version"], tmp_path / "wanted")
    shutil.rmtree(project.folder / ".dvc" / "cache" / "runs")
    shutil.rmtree(project.folder / ".work", ignore_errors=True)

    process = project.start("tuneline", "run", *slow, "--json", TUNELINE_CHECKPOINT_SECONDS="0")
    _kill_training(project)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "train was killed (SIGKILL)" in err and "resuming after step" in err
    outcome = json.loads(out)
    assert "train" in outcome["ran"] and not outcome["created"]
    assert outcome["version"] == undisturbed["version"]
    assert _adapter(project, outcome["version"], tmp_path / "found") == wanted


def _adapter(project: Project, version: str, folder: Path) -> str:
    project("tuneline", "models", "pull", version, "--part", "adapter", "--to", str(folder))
    return manifest.verify(folder).digest


def _kill_training(project: Project) -> None:
    """Wait for checkpoints of a training that goes on, and kill the step's own process."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(project.checkpoints()) >= 2:
            for pid in _training(project):
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError("no training process with checkpoints was seen")


def _training(project: Project) -> Iterator[int]:
    """The step's own processes."""
    return processes(project.folder, "tasks.train")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_flow_s_end_ends_the_stage(project: Project, number: signal.Signals) -> None:
    process = project.start("tuneline", "run", "--set", "train.epochs=300", TUNELINE_CHECKPOINT_SECONDS="0")
    deadline = time.monotonic() + 120
    while not project.checkpoints() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(_training(project))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode
    deadline = time.monotonic() + 30
    while list(_training(project)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(_training(project))
    assert project.checkpoints()
    if number == signal.SIGKILL:  # the next command removes what the killed one could not
        assert list(project.folder.glob(".tuneline/runs/*"))
        project("tuneline", "run", "--dry-run")
    assert not list(project.folder.glob(".tuneline/runs/*"))
