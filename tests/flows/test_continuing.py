"""Continual learning from the command line: a second arrival, a run that goes on from the version of the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.project import Project


@pytest.mark.slow  # its parts: tests/tasks/test_continuing.py
def test_a_run_goes_on_from_the_newest_version(tmp_path: Path, tiny_base: Path, services: dict[str, str]) -> None:
    project = Project(
        tmp_path / "project", tiny_base, services, publish={"name": "desk"}, quantize={"formats": []}
    )  # fmt: skip
    project("tuneline", "data", "ingest", "data/sample")
    assert project.run()["version"] == "desk@v1"

    going_on = ["--set", "fetch.continue_from=desk"]
    refused = project("tuneline", "run", *going_on, code=11).stderr.splitlines()[-1]
    assert "desk@v1 has learned data v1, and here lies v1: nothing is new" in refused

    tiny.write_rows(project.folder / "data/sample/day2.jsonl", 60, start=60)
    project("tuneline", "data", "ingest", "data/sample")
    plan = json.loads(project("tuneline", "run", "--dry-run", "--json", *going_on).stdout)
    assert {row["does"] for row in plan} == {"runs"}
    assert project.run(*going_on)["version"] == "desk@v2"
    record = json.loads(project("tuneline", "models", "show", "desk@v2", "--json").stdout)["version"]["record"]
    assert record["params"]["fetch"]["continue_from"] == record["base"]["continues"]["reference"] == "desk@v1"
    assert "continues desk@v1, merged" in project("tuneline", "models", "show", "desk@v2").stdout

    pinned = json.loads(
        project("tuneline", "run", "--dry-run", "--json", "--set", "fetch.continue_from=desk@v1").stdout
    )
    assert {row["does"] for row in pinned} == {"cached"}, "the run fixed the version: the same stages"

    file = project.folder / "params.yaml"
    values = yaml.safe_load(file.read_text())
    values["fetch"]["continue_from"] = "desk"
    file.write_text(yaml.safe_dump(values))
    by_hand = project("dvc", "repro", "fetch", code=255)
    assert "desk may name another version tomorrow: write desk@vN" in by_hand.stderr
