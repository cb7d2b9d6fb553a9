"""A run that the server forgot goes on; one that is new, or that nobody would begin, is left alone."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows import comebacks
from flows.automations import GOES_ON, OURS
from flows.comebacks import PATIENCE, bring_back, take_up

pytestmark = pytest.mark.usefixtures("no_automations")
"""An automation would bring a crashed run back before we can."""


def nothing() -> None:
    """A flow that is never run."""


def stuck(
    client: SyncPrefectClient, *tags: str, state: StateType = StateType.CRASHED, deployed: bool = True
) -> FlowRun:
    flow = Flow(nothing, name="forgotten")
    if deployed:
        deployment = client.create_deployment(client.create_flow(flow), f"d-{uuid.uuid4().hex}", entrypoint="x:y")
        run = client.create_flow_run_from_deployment(deployment, tags=tags)
    else:
        run = client.create_flow_run(flow, tags=tags)
    client.update_flow_run(run.id, infrastructure_pid="a process")  # without one, to cancel it is to have it cancelled
    client.set_flow_run_state(run.id, State(type=state), force=True)
    return run


def state_of(client: SyncPrefectClient, run: FlowRun) -> str | None:
    state = client.read_flow_run(run.id).state
    return state and state.name


@pytest.mark.parametrize("kind", list(PATIENCE), ids=lambda kind: kind.value)
def test_the_forgotten_go_on_and_no_others(kind: StateType) -> None:
    with get_client(sync_client=True) as client:
        ours = stuck(client, OURS, GOES_ON, state=kind)
        others = stuck(client, OURS, state=kind), stuck(client, OURS, GOES_ON, state=kind, deployed=False)
        before = [state_of(client, run) for run in (ours, *others)]
        now = datetime.now(UTC)
        assert bring_back(client, now) == []
        later = now + PATIENCE[kind] + timedelta(seconds=10)
        assert bring_back(client, later) == [ours.name]
        assert [state_of(client, run) for run in (ours, *others)] == ["AwaitingRetry", *before[1:]]
        assert bring_back(client, later) == []


def test_a_run_that_never_begins_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comebacks, "COMEBACKS", 2)
    with get_client(sync_client=True) as client:
        run = stuck(client, OURS, GOES_ON)
        later = datetime.now(UTC) + timedelta(minutes=1)
        for _ in range(3):
            client.set_flow_run_state(run.id, State(type=StateType.CRASHED), force=True)
            assert bring_back(client, later) == [run.name]
            assert state_of(client, run) == "AwaitingRetry"
        assert bring_back(client, later) == [run.name]
        ended = client.read_flow_run(run.id).state
        assert ended and ended.type is StateType.FAILED and "more than 2 times" in str(ended.message)
        assert bring_back(client, later) == []


def test_what_a_killed_worker_had_begun_is_taken_up() -> None:
    kinds = [StateType.RUNNING, StateType.CANCELLING, StateType.COMPLETED, StateType.SCHEDULED]
    with get_client(sync_client=True) as client:
        other, *runs = [stuck(client, OURS, state=kind) for kind in (StateType.RUNNING, *kinds)]
        take_up(client, [uuid.uuid4(), *(run.id for run in runs)])
        found = [state_of(client, run) for run in (other, *runs)]
    assert found == ["Running", "Crashed", "Cancelled", "Completed", "Scheduled"]


def test_it_is_done_beside_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comebacks, "LOOK_SECONDS", 0.1)
    monkeypatch.setitem(PATIENCE, StateType.CRASHED, timedelta(0))
    with get_client(sync_client=True) as client, comebacks.beside():
        run = stuck(client, OURS, GOES_ON)
        deadline = datetime.now(UTC) + timedelta(seconds=60)
        while state_of(client, run) != "AwaitingRetry":
            assert datetime.now(UTC) < deadline
