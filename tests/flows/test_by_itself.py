"""Rows land, and the line does the rest: taken in, trained on once, judged; and says so when there is nothing to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from flows.arrivals import LANDED, READY
from flows.deployments import flow_of, listed
from flows.services import SIGN_IN
from tasks.storage import embedded
from tests.amazon import Amazon
from tests.project import ROOT, Project
from tests.scraped import free_port, scraped, value
from tests.serving import Server, serving, until

CANARY = "c4n4ry-in-the-environment"


@pytest.fixture
def up(tmp_path: Path, tiny_base: Path, aws: Amazon) -> Iterator[tuple[Project, Server]]:
    landing = tmp_path / "landing"
    landing.mkdir()
    sections: dict[str, dict[str, Any]] = {"publish": {"name": "alone"}, "trigger": {"settle_minutes": 0.0}}
    project = Project(tmp_path / "project", tiny_base, {}, **sections, quantize={"formats": []})
    settings = {
        **aws.environ, "TUNELINE_LANDING": str(landing), "TUNELINE_QUEUE": aws.url, "TUNELINE_JUDGE_KEY": CANARY,
        "TUNELINE_METRICS_PORT": str(free_port()),
    }  # fmt: skip
    with serving(project, **settings) as (server, _):
        assert (server.told["landing"], server.told["queue"]) == (str(landing), aws.url)
        yield project, server


def test_what_lands_is_trained_on_once_and_nothing_else_is(
    up: tuple[Project, Server], aws: Amazon, tmp_path: Path
) -> None:
    project, server = up
    assert until(server.scheduled) == {"ingest", "retrain"}
    shutil.copy(ROOT / "data/sample/day1.jsonl", tmp_path / "landing" / "day1.jsonl")
    aws.notify()
    aws.put("day1.jsonl")  # two messages with S3's test, at one look or at two: the latter announces nothing
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
    counted = scraped(server.told["metrics"])
    assert value(counted, "tuneline_stages_total", "train", "ran") == 1
    assert value(counted, "tuneline_stage_seconds_count", "train") == 1
    for flow, outcome, runs in (
        ("retrain", state.lower(), 1), ("retrain", "skipped", 2), ("ingest", "ready", 1), ("ingest", "waiting", 2),
    ):  # fmt: skip
        assert value(counted, "tuneline_runs_total", flow, "alone", outcome) == runs
    assert value(counted, "tuneline_rows_ingested_total", "accepted") == 440
    assert value(counted, "tuneline_train_loss", "alone") > 0
    assert value(counted, "tuneline_train_memory_bytes", "alone") > 1e7
    assert len(seen := kept(project)) > 50
    password = server.sign_in.partition(":")[2]
    assert seen.pop(str(project.folder / SIGN_IN)).decode().strip().endswith(password)
    for secret in (CANARY, embedded.credentials(project.folder / ".tuneline" / "s3")[1], password):
        assert [name for name, data in seen.items() if secret.encode() in data] == []


def kept(project: Project) -> dict[str, bytes]:
    """All that is written down of the runs: the Prefect server's database and logs, the line's own, every object in the store."""
    home = project.folder / ".tuneline"
    files = {
        str(file): file.read_bytes()
        for file in home.rglob("*")
        if file.is_file() and "s3" not in file.relative_to(home).parts
    }
    with embedded.s3(home) as store:
        s3 = boto3.client("s3", endpoint_url=store.endpoint, region_name="us-east-1", aws_access_key_id=store.access_key,
                          aws_secret_access_key=store.secret_key)  # fmt: skip
        for bucket in s3.list_buckets()["Buckets"]:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                for found in page.get("Contents", []):
                    files[found["Key"]] = s3.get_object(Bucket=bucket["Name"], Key=found["Key"])["Body"].read()
    return files


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
