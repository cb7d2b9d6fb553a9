"""Rows land, and the line does the rest: taken in, trained on once, judged; and says so when there is nothing to do."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.arrivals import LANDED, READY
from flows.deployments import flow_of, listed
from tests import amazon
from tests.amazon import Amazon
from tests.project import ROOT, Project
from tests.scraped import free_port, scraped, value

SECONDS = 900.0


class Server:
    """What a test asks of the Prefect server that `tuneline up` has started, over plain HTTP as anybody would."""

    def __init__(self, address: str, metrics: str) -> None:
        self._api, self.metrics = f"{address}/api", metrics

    def post(self, path: str, value: Any) -> Any:
        body = json.dumps(value).encode()
        request = urllib.request.Request(f"{self._api}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"null")

    def landed(self) -> None:
        self._tell(LANDED)

    def ready(self) -> None:
        self._tell(READY)

    def _tell(self, event: str) -> None:
        self.post("/events", [{
            "id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": event,
            "resource": {"prefect.resource.id": "tuneline.test"},
        }])  # fmt: skip

    def ended(self, flow: str) -> list[tuple[str, str]]:
        """Name and message of the last state of each run of the flow that has ended, oldest first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        runs = self.post("/flow_runs/filter", wanted)
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return [(run["state"]["name"], run["state"]["message"]) for run in runs if run["state_type"] in final]

    def wait(self, flow: str, count: int) -> list[tuple[str, str]]:
        deadline = time.monotonic() + SECONDS
        while len(found := self.ended(flow)) < count:
            assert time.monotonic() < deadline, f"{flow}: {found}"
            time.sleep(0.5)
        return found


@pytest.fixture
def aws() -> Iterator[Amazon]:
    with amazon.serving() as server:
        yield Amazon(server, "landing")


@pytest.fixture
def up(tmp_path: Path, tiny_base: Path, aws: Amazon) -> Iterator[tuple[Project, Server]]:
    landing = tmp_path / "landing"
    landing.mkdir()
    sections: dict[str, dict[str, Any]] = {"publish": {"name": "alone"}, "trigger": {"settle_minutes": 0.0}}
    project = Project(tmp_path / "project", tiny_base, {}, **sections, quantize={"formats": []})
    settings = {**aws.environ, "TUNELINE_LANDING": str(landing), "TUNELINE_QUEUE": aws.url}
    settings["TUNELINE_METRICS_PORT"] = str(free_port())
    process = project.start("tuneline", "up", **settings)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        assert str(landing) in lines[2] and lines[3] == f"queue:      {aws.url}\n"
        server = Server(lines[0].split()[-1], lines[4].split()[-1])
        _until(lambda: len(server.post("/deployments/filter", {})) == len(listed()))
        yield project, server
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_what_lands_is_trained_on_once_and_nothing_else_is(
    up: tuple[Project, Server], aws: Amazon, tmp_path: Path
) -> None:
    project, server = up
    shutil.copy(ROOT / "data/sample/day1.jsonl", tmp_path / "landing" / "day1.jsonl")
    aws.notify()
    aws.put("day1.jsonl")  # two messages with S3's test, at one look or at two: the latter announces nothing
    assert server.wait("ingest", 1)[0] == ("Ready", "v1, 420 rows; v1 brings 420 new rows, at least 50")
    server.ready()  # a second time: two runs, one training
    (state, message), second = server.wait("retrain", 2)
    assert state in ("Completed", "Refused") and "alone@v1 registered" in message, message
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
    counted = scraped(server.metrics)
    assert value(counted, "tuneline_stages_total", "train", "ran") == 1
    assert value(counted, "tuneline_stage_seconds_count", "train") == 1
    for flow, outcome, runs in (
        ("retrain", state.lower(), 1), ("retrain", "skipped", 2), ("ingest", "ready", 1), ("ingest", "waiting", 2),
    ):  # fmt: skip
        assert value(counted, "tuneline_runs_total", flow, "alone", outcome) == runs
    assert value(counted, "tuneline_rows_ingested_total", "accepted") == 440
    assert value(counted, "tuneline_train_loss", "alone") > 0
    assert value(counted, "tuneline_train_memory_bytes", "alone") > 1e7


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
