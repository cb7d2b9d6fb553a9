"""`tuneline run --set train.method=...` for every known method: the whole sample corpus in, a registered version out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.ml import methods
from tests import method_cases, tiny
from tests.project import Project

pytestmark = pytest.mark.slow  # the parts of each: tests/tasks/test_steps.py
METHODS = [name for name in methods.known() if (name, "llama") not in method_cases.REFUSED]
TRAIN = {"rank": 4, "epochs": 1, "launch": {"dtype": "float32"}, "batch": {"packs": 2, "micro_tokens": 1024}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, services: dict[str, str]) -> Project:
    made = Project(
        tmp_path_factory.mktemp("methods") / "project", tiny_base, services,
        publish={"name": "methods"}, quantize={"formats": []}, train=TRAIN,
    )  # fmt: skip
    tiny.write_rows(made.folder / "data" / "sample" / "day1.jsonl", len(tiny.sample_rows()))
    made("tuneline", "data", "ingest", "data/sample")
    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_run_registers_a_version_of_any_method(project: Project, tiny_base: Path, method: str) -> None:
    options = json.dumps(method_cases.options(method, tiny_base))
    outcome = project.run("--set", f"train.method={method}", "--set", f"train.options={options}")
    assert outcome["created"]
    shown = json.loads(project("tuneline", "models", "show", outcome["version"], "--json").stdout)
    record = shown["version"]["record"]
    assert record["params"]["train"]["method"] == method and record["data"]["rows"] > 500
    assert {"base", "adapter", "merged"} <= set(record["metrics"])


@pytest.mark.parametrize("method", [name for name, family in method_cases.REFUSED if family == "llama"])
def test_a_method_that_the_base_can_t_have_is_one_message(project: Project, method: str) -> None:
    refused = project("tuneline", "run", "--set", f"train.method={method}", code=11)
    assert method_cases.REFUSED[(method, "llama")] in refused.stderr.splitlines()[-1]
