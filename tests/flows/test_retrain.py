"""Whole runs with the tiny model: real git, DVC, Prefect and S3. The line resumes, caches, refuses and registers once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.project import Project, Ran


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, services: dict[str, str]) -> Project:
    """One that has taken rows in and run nothing yet."""
    folder = tmp_path_factory.mktemp("retrain")
    made = Project(folder / "project", tiny_base, services, publish={"name": "tiny"}, quantize={"formats": []})
    made("tuneline", "data", "ingest", "data/sample")
    return made


STAGES = {
    "fetch", "prepare", "train", "merge", "quantize@nf4", "evaluate-base", "evaluate@adapter", "evaluate@merged",
    "evaluate-format@nf4", "judge", "report",
}  # fmt: skip


def test_a_run_registers_once_and_a_hand_made_repro_has_nothing_to_do(ran: Ran, tmp_path: Path) -> None:
    project, first = ran.project, ran.outcome
    assert {row["stage"] for row in ran.plan if row["does"] == "runs"} == STAGES
    assert first["created"] and set(first["ran"]) == STAGES
    judged = first["promotion"]
    assert judged["what"] in ("promoted", "refused") and judged["verdict"] and judged["rulings"]
    assert (project.folder / "dvc.lock").exists()

    by_hand = project("dvc", "repro")
    assert "Running stage" not in by_hand.stdout
    assert "Data and pipelines are up to date" in by_hand.stdout

    second = project.run()
    assert second["ran"] == [] and not second["created"] and second["version"] == first["version"]
    listed = json.loads(project("tuneline", "models", "list", "--json").stdout)
    assert sum(1 for version in listed if version["reference"] == first["version"]) == 1

    again = project("python", "-m", "tasks.publish", "--workspace", ".")
    assert f"{first['version']} was registered already" in again.stderr

    plan = json.loads(project("tuneline", "run", "--dry-run", "--json", "--set", "train.rank=2").stdout)
    assert {row["stage"]: row["why"] for row in plan if row["does"] == "runs"}["train"] == ["modified train"]
    assert {row["stage"] for row in plan if row["does"] == "cached"} == {"fetch", "prepare", "evaluate-base"}

    project("tuneline", "models", "pull", first["version"], "--to", str(tmp_path / "pulled"))
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "pulled").num_parameters() > 10_000
    record = json.loads(project("tuneline", "models", "show", first["version"], "--json").stdout)["version"]["record"]
    assert {"data", "base", "params", "dvc_lock", "git", "seed", "metrics", "cost", "environment"} <= set(record)
    assert record["dvc_lock"]["stages"]["train"]["params"]


def test_the_ui_has_the_run_s_artifacts_and_cached_states(ran: Ran) -> None:
    """As the server tells them to the UI."""
    project, before = ran.project, ran.outcome
    project.run()
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": [f"model: {ran.name}"]}}),
            sort=FlowRunSort.START_TIME_DESC,
        )
        keys = {
            artifact.key: artifact.data
            for run in runs
            for artifact in client.read_artifacts(
                artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}})
            )
        }
        newest = client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [runs[0].id]}}))
    assert {
        "training-loss",
        "progress-train",
        "comparison",
        "samples",
        "model-card",
        "data-card",
        "version",
        "gate",
    } <= set(keys)
    assert "data:image/svg+xml;base64," in str(keys["training-loss"])
    assert "nf4" in str(keys["comparison"]) and before["version"] in str(keys["version"])
    states = {run.name: run.state_name for run in newest}
    assert states == {**dict.fromkeys(STAGES, "Cached"), "publish": "Completed", "promote": "Completed"}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--set", "train.rnak=4"], 2, "train.rnak: unknown key"),
        (["--set", "train.method=lroa"], 11, "unknown method 'lroa'; did you mean "),
        (["--set", "quantize.formats=[nf5]"], 11, "unknown format 'nf5'"),
        (["--set", "fetch.ref=gguf:no-such-package"], 11, "no-such-package is not installed"),
        (["--set", "fetch.ref=/no/such/folder"], 11, "there is no folder /no/such/folder"),
        (["--set", "train.targets=[q_prj]"], 11, "train: train.targets: no linear layer is called 'q_prj'"),
    ],
)  # fmt: skip
def test_a_wrong_param_is_one_message(project: Project, options: list[str], code: int, says: str) -> None:
    failed = project("tuneline", "run", *options, code=code)
    assert says in failed.stderr.splitlines()[-1] and failed.stderr.splitlines()[-1].startswith("error: ")
    assert not list(project.folder.glob("models/adapter*")) and not list(project.folder.glob(".tuneline/runs/*"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong" * 8}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "127.0.0.1:9"),
    ],
)
def test_a_store_that_refuses_is_one_message(project: Project, changes: dict[str, str], says: str) -> None:
    failed = project("tuneline", "models", "list", code=7, **changes)
    (line,) = failed.stderr.strip().splitlines()
    assert line.startswith("error: ") and says in line
    assert "wrongwrong" not in failed.stderr
    refused = project("tuneline", "run", code=11, **changes).stderr
    assert says in refused.splitlines()[-1] and "fetch" not in refused and "wrongwrong" not in refused


@pytest.mark.slow
def test_after_a_hand_made_repro_the_flow_has_nothing_to_run_and_all_can_be_made_again(project: Project) -> None:
    """The version was made with a change that nobody committed, which it brings along."""
    step = project.folder / "tasks" / "report.py"
    step.write_text(step.read_text() + "\n# uncommitted\n")
    by_hand = project("dvc", "repro")
    assert "Running stage 'train'" in by_hand.stdout
    run = project.run()
    assert run["ran"] == [] and run["created"]
    step.write_text(step.read_text() + "\nraise SystemExit(1)\n")
    again = json.loads(project("tuneline", "reproduce", run["version"], "--json").stdout)
    assert again["same"] and again["files"] >= 10 and not again["differing"] and not again["metrics"]
    assert set(again["seconds"]) == {stage for stage in STAGES if not stage.endswith("@nf4")}, "every stage ran anew"
    assert not list((project.folder / ".tuneline" / "runs").iterdir())
