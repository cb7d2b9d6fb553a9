"""`tuneline up` in a project, and what a test asks of its Prefect server, over plain HTTP as anybody would."""

from __future__ import annotations

import base64
import http
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.arrivals import LANDED, READY
from flows.deployments import listed
from flows.services import SIGN_IN
from tests.project import Project

SECONDS = 900.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def signed(words: str) -> dict[str, str]:
    """The header that a server which asks for these words wants to see; none for no words."""
    return {"Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"} if words else {}


class Server:
    """The Prefect server at an address; `sign_in`: the words that it asks for; `told`: what `tuneline up` says at its
    start, by name."""

    def __init__(self, address: str, sign_in: str = "", told: Mapping[str, str] | None = None) -> None:
        self.api, self.sign_in, self.told = f"{address}/api", sign_in, told or {}
        self._headers = {"Content-Type": "application/json", **signed(sign_in)}

    def post(self, path: str, value: Any) -> Any:
        return self._asked(urllib.request.Request(f"{self.api}{path}", json.dumps(value).encode(), self._headers))

    def get(self, path: str) -> Any:
        return self._asked(urllib.request.Request(f"{self.api}{path}", headers=self._headers))

    def _asked(self, request: urllib.request.Request) -> Any:
        """A server that is busy or not there is asked again, as by Prefect's own client."""
        pauses = iter((1, 2, 4, 8, 16))
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.loads(answer.read() or b"null")
            except OSError as error:
                refused = (
                    isinstance(error, urllib.error.HTTPError) and error.code != http.HTTPStatus.SERVICE_UNAVAILABLE
                )
                if refused or not (pause := next(pauses, 0)):
                    raise
                time.sleep(pause)

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
        return [(run["state"]["name"], run["state"]["message"]) for run in runs if run["state_type"] in FINAL]

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Every run of the flow whose time has come, newest first."""
        found = self.post("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "ID_DESC"})
        return [run for run in found if run["state"]["name"] != "Scheduled"]

    def scheduled(self) -> set[str]:
        """The flows of which a run will come by its schedule."""
        runs = self.post("/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}}})
        return {self.get(f"/flows/{run['flow_id']}")["name"] for run in runs if run["auto_scheduled"]}

    def reach(self, run: str, *states: str) -> dict[str, Any]:
        """The run, once its state has one of these names."""
        return until(lambda: (found := self.get(f"/flow_runs/{run}"))["state"]["name"] in states and found)

    def wait(self, flow: str, count: int) -> list[tuple[str, str]]:
        return until(lambda: len(found := self.ended(flow)) >= count and found)


def until(there: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What it answers, once that is true. A server that is not there is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := there():
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.3)


@contextmanager
def serving(project: Project, **environment: str) -> Generator[tuple[Server, subprocess.Popen[str]]]:
    """`tuneline up` for the length of the block, its deployments registered. What it says goes to a file: a pipe would fill."""
    said = project.folder.parent / f"up-{uuid.uuid4().hex[:8]}.log"
    with said.open("w") as log:
        process = project.start("tuneline", "up", to=log, **environment)
    try:
        until(lambda: process.poll() is not None or "Ctrl-C" in said.read_text(), seconds=300)
        assert process.poll() is None, said.read_text()
        told = {
            name: value.strip() for name, _, value in (line.partition(":") for line in said.read_text().splitlines())
        }
        file = project.folder / SIGN_IN
        server = Server(told["Prefect UI"], file.read_text().strip() if "sign in" in told else "", told)
        until(lambda: len(server.post("/deployments/filter", {})) == len(listed()))
        yield server, process
    finally:
        process.terminate()
        process.wait(timeout=60)


def processes(folder: Path, *words: str) -> Iterator[int]:
    """Those that work in the folder and whose command line has all of these words."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
            inside = (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if inside and all(word.encode() in line for word in words):
            yield int(entry.name)


def flows(folder: Path) -> Iterator[int]:
    """The processes in which served runs go on."""
    return processes(folder, "prefect.engine")


def kill(pid: int) -> None:
    """With SIGKILL, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
