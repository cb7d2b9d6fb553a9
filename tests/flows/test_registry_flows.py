"""The registry's commands as flows: what the UI's forms start, what they say, and what a form may not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import preflight
from flows.ingest import ingest
from flows.registry import gc, promote, rollback
from flows.server import PrefectServer
from tasks.core import params
from tasks.core.errors import ParamsError
from tasks.storage import checkout
from tasks.storage.registry import Registry
from tests.project import ROOT, Project
from tests.registries import publish
from tests.tiny import write_rows


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, services: dict[str, str], prefect_api: PrefectServer) -> Any:
    folder = tmp_path_factory.mktemp("flows")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.items():
            patch.setenv(name, value)
        patch.setenv("TUNELINE_REGISTRY", f"s3://flows/{folder.name}")
        made = Registry.open({**services, "TUNELINE_REGISTRY": f"s3://flows/{folder.name}"})
        made.store.ensure_bucket()
        for number in (1, 2):
            publish(made, folder, number, "desk")
        yield made


def test_a_champion_comes_and_goes(registry: Registry) -> None:
    refused = promote("desk@v1", why="x", return_state=True)
    assert refused.is_failed() and "desk@v1 was never judged" in (refused.message or "")
    states = [promote(f"desk@v{number}", why="asked for", unjudged=True, return_state=True) for number in (1, 2, 2)]
    assert [state.message for state in states] == [
        "desk@champion names v1 now (move 1)", "desk@champion names v2 now, v1 before (move 2)",
        f"desk@champion names v2 already (move 2, by {checkout.user()}: asked for)",
    ]  # fmt: skip
    assert (
        rollback("desk", why="complaints", return_state=True).message
        == "desk@champion names v1 now, v2 before (move 3)"
    )
    assert "names v1 and nothing was promoted before" in (rollback("desk", why="more", return_state=True).message or "")


def test_what_would_go_is_said_and_goes_when_asked(registry: Registry) -> None:
    registry.store.put("blobs/sha256/00/" + "0" * 64, b"left")
    said = "0 versions, 1 blobs, 4 bytes"
    assert gc(grace_hours=0, return_state=True).message == f"would go: {said}"
    assert gc(grace_hours=0, delete=True, return_state=True).message == f"removed: {said}"


@pytest.mark.parametrize(
    ("landing", "says"), [(None, "Set TUNELINE_LANDING to a folder or"), ("/no/such/place", "/no/such/place")]
)
def test_a_landing_place_that_is_none_is_said(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landing: str | None, says: str
) -> None:
    (tmp_path / params.FILE).write_bytes((ROOT / params.FILE).read_bytes())
    monkeypatch.chdir(tmp_path)
    if landing:
        monkeypatch.setenv("TUNELINE_LANDING", landing)
    state = ingest(return_state=True)
    assert state.is_failed() and says in (state.message or "")


@pytest.mark.parametrize(
    "setting",
    [
        "fetch.ref=/etc", "fetch.ref=gguf:/etc/passwd", "evaluate.metrics=['os:system']", "merge.also=[{adapter: /root}]",
        "evaluate.bertscore={encoder: /root, layer: null}",
    ],
)  # fmt: skip
def test_a_form_names_no_code_and_no_place(setting: str) -> None:
    written = params.load(ROOT / params.FILE)
    asked = params.override(written, [setting])
    with pytest.raises(ParamsError, match="only that may name code, files or addresses"):
        preflight.check_form(asked, written)
    preflight.check_form(asked, asked)
    preflight.check_form(params.override(written, ["train.rank=8", "fetch.ref=hub:org/name"]), written)


@pytest.mark.slow
def test_past_data_versions_are_gone_through_in_their_order(
    tmp_path: Path, tiny_base: Path, services: dict[str, str]
) -> None:
    project = Project(tmp_path / "project", tiny_base, services, publish={"name": "past"}, quantize={"formats": []})
    write_rows(project.folder / "data" / "sample" / "day2.jsonl", 40, start=60)
    for day in (1, 2):
        project("tuneline", "data", "ingest", f"data/sample/day{day}.jsonl")
    ask = "from flows.backfill import backfill; print(backfill(['v2', 'v1'], return_state=True).message)"
    told = project("python", "-c", ask).stdout.strip().splitlines()[-1]
    assert told.startswith("v1: past@v1 registered") and "; v2: past@v2 registered" in told
    data: list[Any] = [version.record["data"] for version in Registry.open(project.environment).versions("past")]
    assert [each["version"] for each in data] == ["v1", "v2"]
