"""The same run comes back after whatever is killed, and ends as if nothing had been; cancelled, it stays where it is."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.core import manifest
from tasks.core.manifest import FileEntry
from tests.project import Project
from tests.serving import Server, flows, kill, processes, serving, until
from tests.tiny import write_rows

ROWS = 60
KILLS = 20
KINDS = ["training", "stage", "flow", "server", "store", "up"]
SHORT, LONG = 60, 600
SEED = 7


def made(folder: Path, base: Path, epochs: int) -> Project:
    return Project(
        folder,
        base,
        {},
        publish={"name": "phoenix"},
        trigger={"settle_minutes": 0.0},
        quantize={"formats": []},
        train={"epochs": epochs},
    )


def adapter(project: Project, folder: Path) -> dict[str, FileEntry]:
    """Its files, without what the manifest says of where the rows came from."""
    project("tuneline", "models", "pull", "phoenix@v1", "--part", "adapter", "--to", str(folder))
    return dict(manifest.verify(folder).files)


class Machine:
    """One `tuneline up` after the other on one project, begun again when it was killed, as systemd would."""

    def __init__(self, project: Project, landing: Path, stack: ExitStack) -> None:
        self.project, self._stack = project, stack
        self._environment = {"TUNELINE_LANDING": str(landing), "TUNELINE_CHECKPOINT_SECONDS": "0.5"}
        self.begin()

    def begin(self) -> None:
        self.server, self._up = self._stack.enter_context(serving(self.project, **self._environment))

    def victims(self) -> dict[str, list[int]]:
        inside = self.project.folder
        found = {
            "training": list(processes(inside, "tasks.train")),
            "stage": list(processes(inside, "flows.supervise")),
            "flow": list(flows(inside)),
            "server": list(processes(inside, "prefect", "server", "start")),
            "store": list(processes(inside, "mini")),
            "up": [self._up.pid],
        }
        return {name: pids for name, pids in found.items() if pids}

    def kill(self, name: str, pids: list[int]) -> None:
        for pid in pids:
            kill(pid)
        if name == "up":
            self._up.wait()
            self.begin()


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, tiny_base: Path) -> Iterator[Machine]:
    """With a training of so many epochs."""
    (tmp_path / "landing").mkdir()
    with ExitStack() as stack:
        yield Machine(made(tmp_path / "project", tiny_base, request.param), tmp_path / "landing", stack)
    until(lambda: not list(processes(tmp_path / "project")), seconds=60)


def begun(machine: Machine) -> str:
    """The number of a run that trains, by a file that has landed."""
    landing = Path(machine.project.folder.parent / "landing")
    write_rows(landing / "day1.jsonl", ROWS)
    machine.server.landed()
    run = until(lambda: machine.server.runs("retrain"))[0]["id"]
    until(lambda: len(machine.project.checkpoints()) >= 2)
    return str(run)


def undisturbed(tmp_path: Path, base: Path) -> dict[str, FileEntry]:
    other = made(tmp_path / "undisturbed", base, LONG)
    other("tuneline", "data", "ingest", str(write_rows(tmp_path / "alone" / "day1.jsonl", ROWS)))
    other.run()
    return adapter(other, tmp_path / "wanted")


def versions(project: Project) -> list[str]:
    return [version["reference"] for version in json.loads(project("tuneline", "models", "list", "--json").stdout)]


def held(server: Server) -> int:
    """Slots of concurrency limits that somebody holds."""
    return sum(limit["active_slots"] for limit in server.post("/v2/concurrency_limits/filter", {}))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("machine", [LONG], indirect=True)
def test_twenty_kills_of_anything_and_one_version(machine: Machine, tmp_path: Path, tiny_base: Path) -> None:
    chance, run, killed = random.Random(SEED), begun(machine), list[str]()
    while len(killed) < KILLS:
        for name in chance.sample(KINDS, len(KINDS)):  # no stage more than five times in one life of its flow
            time.sleep(chance.uniform(0, 15))
            pids = until(lambda name=name: ended(machine.server, run) or machine.victims().get(name))
            assert isinstance(pids, list), f"{pids} after {killed}"
            machine.kill(name, pids)
            killed.append(name)
    last = machine.server.reach(run, "Promoted", "Refused", "Failed")
    assert last["state"]["name"] != "Failed", last["state"]["message"]
    assert versions(machine.project) == ["phoenix@v1"]
    assert len(machine.server.runs("retrain")) == 1
    assert until(lambda: held(machine.server) == 0, seconds=120)
    assert adapter(machine.project, tmp_path / "found") == undisturbed(tmp_path, tiny_base)


def ended(server: Server, run: str) -> str:
    """Name and message of the state in which it ended; nothing while it goes on."""
    state = server.get(f"/flow_runs/{run}")["state"]
    return f"{state['name']}: {state['message']}" if state["type"] in ("COMPLETED", "FAILED", "CANCELLED") else ""


@pytest.mark.slow
@pytest.mark.parametrize("machine", [LONG], indirect=True)
def test_a_cancelled_run_ends_whole_and_leaves_its_checkpoint(machine: Machine) -> None:
    run = begun(machine)
    machine.server.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    inside = machine.project.folder
    left = (
        lambda: processes(inside, "tasks.train"),
        lambda: processes(inside, "flows.supervise"),
        lambda: flows(inside),
    )
    until(lambda: not [pid for each in left for pid in each()], seconds=120)
    assert machine.server.reach(run, "Cancelled", "Crashed", "AwaitingRetry")["state"]["name"] == "Cancelled"
    assert machine.project.checkpoints()
    assert not list(inside.glob(".tuneline/runs/*"))
    assert until(lambda: held(machine.server) == 0, seconds=120)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [SHORT], indirect=True)
def test_a_killed_flow_is_the_same_run_again(machine: Machine) -> None:
    run = begun(machine)
    machine.kill("flow", machine.victims()["flow"])
    last = machine.server.reach(run, "Promoted", "Refused", "Failed")
    assert last["state"]["name"] != "Failed" and last["run_count"] == 2
    assert versions(machine.project) == ["phoenix@v1"]
    logs = machine.server.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    assert any("resuming after step" in line["message"] for line in logs)
