"""Rows land, and the line does the rest: taken in, trained on once, judged; and says so when there is nothing to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.arrivals import LANDED, READY
from flows.deployments import flow_of, listed
from tests.project import ROOT, Project
from tests.serving import Server, serving


@pytest.fixture
def up(tmp_path: Path, tiny_base: Path) -> Iterator[tuple[Project, Server]]:
    landing = tmp_path / "landing"
    landing.mkdir()
    sections: dict[str, dict[str, Any]] = {"publish": {"name": "alone"}, "trigger": {"settle_minutes": 0.0}}
    project = Project(tmp_path / "project", tiny_base, {}, **sections, quantize={"formats": []})
    with serving(project, TUNELINE_LANDING=str(landing)) as (server, _):
        yield project, server


def test_what_lands_is_trained_on_once_and_nothing_else_is(up: tuple[Project, Server], tmp_path: Path) -> None:
    project, server = up
    shutil.copy(ROOT / "data/sample/day1.jsonl", tmp_path / "landing" / "day1.jsonl")
    server.landed()
    assert server.wait("ingest", 1)[0] == ("Ready", "v1, 420 rows; v1 brings 420 new rows, at least 50")
    server.ready()  # a second time: two runs, one training
    (state, message), second = server.wait("retrain", 2)
    assert state in ("Promoted", "Refused") and "alone@v1 registered" in message, message
    assert second == ("Skipped", "nothing has arrived since the last training")
    server.landed()
    name, message = server.wait("ingest", 2)[1]
    assert (name, message) == ("Waiting", "v1, 420 rows, as before; nothing has arrived since the last training")

    rows = (ROOT / "data/sample/day2.jsonl").read_text().splitlines()
    (tmp_path / "landing" / "few.jsonl").write_text("\n".join(rows[:20]) + "\n")
    server.landed()
    name, message = server.wait("ingest", 3)[2]
    assert name == "Waiting" and message.startswith("v2, 440 rows; v2 waits: 20 of 50 new rows, drift ")
    server.ready()
    skipped = server.wait("retrain", 3)[2]
    assert skipped[0] == "Skipped" and skipped[1].startswith(
        message.removeprefix("v2, 440 rows; ").rpartition(", for ")[0]
    )
    assert len(json.loads(project("tuneline", "models", "list", "--json").stdout)) == 1


def test_the_events_that_start_runs_are_those_that_are_sent() -> None:
    triggers = [trigger for given in listed() for trigger in given.get("triggers", [])]
    assert [trigger["expect"] for trigger in triggers] == [[LANDED], [READY]]


@pytest.mark.parametrize("given", listed(), ids=lambda given: given["name"])
def test_every_deployment_names_a_flow_that_says_what_it_does(given: dict[str, Any]) -> None:
    flow = flow_of(given["entrypoint"])
    assert flow.name == given["name"] and flow.description and given["description"].endswith(".")
    for parameters in (
        each.get("parameters", {}) for each in (*given.get("schedules", []), *given.get("triggers", []))
    ):
        flow.validate_parameters(parameters)
