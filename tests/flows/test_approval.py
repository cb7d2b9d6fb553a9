"""A person's word: the run waits without a process, the form is checked, and the answer stands in the audit log."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT, Project
from tests.serving import Server, flows, serving, until


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    """An address that keeps what is posted to it."""
    told: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()


def project_in(folder: Path, base: Path, **limits: float) -> Project:
    (folder / "landing").mkdir()
    promote: dict[str, Any] = {"approval": "manual", "margin": 1.0, "rows": {"train": 1, "test": 1}}
    return Project(  # trained for long enough to be better than a random base, whatever it says
        folder / "project", base, {}, publish={"name": "asked"}, trigger={"settle_minutes": 0.0}, limits=limits,
        quantize={"formats": []}, promote=promote, train={"epochs": 5}, evaluate={"max_new_tokens": 12},
    )  # fmt: skip


def waiting(server: Server, folder: Path, project: Project) -> str:
    """The number of a run that waits for an answer, its process gone."""
    shutil.copy(ROOT / "data/sample/day1.jsonl", folder / "landing" / "day1.jsonl")
    server.landed()
    run = str(until(lambda: server.runs("retrain"))[0]["id"])
    last = server.reach(run, "Suspended", "Refused", "Failed", "Promoted")
    assert last["state"]["name"] == "Suspended", last["state"]["message"]
    until(lambda: not list(flows(project.folder)), seconds=60)
    return run


def log(project: Project) -> list[dict[str, Any]]:
    return json.loads(project("tuneline", "models", "log", "asked", "--json").stdout)


def test_a_yes_promotes_and_is_told(tmp_path: Path, tiny_base: Path, hook: tuple[str, list[str]]) -> None:
    address, told = hook
    project = project_in(tmp_path, tiny_base)
    with serving(project) as (server, _):
        block(server, address)
    with serving(project, TUNELINE_LANDING=str(tmp_path / "landing"), TUNELINE_NOTIFY="custom-webhook/team") as (
        server,
        _,
    ):
        run = waiting(server, tmp_path, project)
        assert json.loads(project("tuneline", "models", "list", "--json").stdout)[0]["aliases"] == []
        with pytest.raises(AssertionError):
            answer(server, run, decision="perhaps")
        answer(server, run, decision="promote", reason="read the samples", by="Ada")
        last = server.reach(run, "Promoted", "Refused", "Failed")
        assert last["state"]["name"] == "Promoted", last["state"]["message"]
        move = next(entry for entry in log(project) if entry["action"] == "promote")
        assert (move["who"], move["why"], move["version"]) == ("Ada", "read the samples", 1)
        assert len(move["verdict"]) == 64
        until(lambda: {"Suspended", "Promoted"} <= {json.loads(each)["subject"].split()[-1] for each in told})


@pytest.mark.slow
def test_no_answer_is_a_no(tmp_path: Path, tiny_base: Path) -> None:
    project = project_in(tmp_path, tiny_base, approval_hours=0.003)
    with serving(project, TUNELINE_LANDING=str(tmp_path / "landing")) as (server, _):
        shutil.copy(ROOT / "data/sample/day1.jsonl", tmp_path / "landing" / "day1.jsonl")
        server.landed()
        name, message = server.wait("retrain", 1)[0]
        assert (name, message.partition(": ")[2]) == ("Refused", "nobody agreed within 0.003 h")
        assert [entry["action"] for entry in log(project)] == ["publish", "await", "decline"]
        assert json.loads(project("tuneline", "models", "list", "--json").stdout)[0]["aliases"] == []


def answer(server: Server, run: str, **given: str) -> None:
    result = server.post(f"/flow_runs/{run}/resume", {"run_input": given})
    assert result["status"] == "ACCEPT", result


def block(server: Server, address: str) -> None:
    """A notification block, made as the UI makes it."""
    kind = server.get("/block_types/slug/custom-webhook")
    schema = server.post("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})[0]
    data = {
        "name": "team", "url": address, "method": "POST",
        "json_data": {"subject": "{{subject}}", "body": "{{body}}"},
    }  # fmt: skip
    server.post("/block_documents/", {
        "name": "team", "data": data, "block_type_id": kind["id"], "block_schema_id": schema["id"],
    })  # fmt: skip
