"""Whom the server forgot: a run of the line that crashed, or never began, and that nothing has brought back; and whom it
brings back for ever. Looked for beside `tuneline up`.

The automation (flows/automations.py) does it at once, where its event is evaluated. On SQLite, Prefect 3.8.8 gives an event up
whose evaluation met a busy database four times, and puts off for 15 minutes what follows on the same run. And a run whose
worker was killed before it began sent no heartbeat that could be missed. An automation does not count: a run whose process
ends before the flow does (a worktree that can't be imported) would crash and be begun again until somebody looks.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from flows.automations import AGAIN, GOES_ON, OURS
from flows.policy import COMEBACKS

LOOK_SECONDS = 15.0
PATIENCE = {StateType.CRASHED: timedelta(seconds=30), StateType.PENDING: timedelta(minutes=1)}
"""How long such a run is left to the server and the worker."""
ENDS = {StateType.RUNNING: StateType.CRASHED, StateType.CANCELLING: StateType.CANCELLED}

STRAYS = FlowRunFilter.model_validate({
    "tags": {"all_": [OURS, GOES_ON]}, "deployment_id": {"is_null_": False},
    "state": {"operator": "or_", "type": {"any_": list(PATIENCE)}, "name": {"any_": [AGAIN["name"]]}},
})  # fmt: skip
"""Runs on their way back, or forgotten. One without a deployment has nobody who would begin it again."""


def bring_back(client: SyncPrefectClient, now: datetime) -> list[str]:
    """Begin the forgotten runs again, and end those that have come back too often; their names. Not those of a work pool,
    where waiting for a machine may take hours."""
    found: list[str] = []
    for run in client.read_flow_runs(flow_run_filter=STRAYS):
        if run.state is None or run.work_pool_name:
            continue
        if sum(state.name == AGAIN["name"] for state in client.read_flow_run_states(run.id)) > COMEBACKS:
            state = State(
                type=StateType.FAILED,
                message=f"it crashed more than {COMEBACKS} times: the log of `tuneline up` says why",
            )
        elif run.state.type in PATIENCE and now - run.state.timestamp > PATIENCE[run.state.type]:
            state = State.model_validate(AGAIN)
        else:
            continue
        client.set_flow_run_state(run.id, state, force=True)
        found.append(run.name)
    return found


def take_up(client: SyncPrefectClient, runs: Iterable[UUID]) -> None:
    """Of runs whose processes are gone: one that went on has crashed, and goes on as such a run does; one that was being
    cancelled is. Nobody else would say so of a run that ended before its first heartbeat."""
    for run in runs:
        try:
            state = client.read_flow_run(run).state
        except ObjectNotFound:  # another server's, or deleted
            continue
        if state and state.type in ENDS:
            client.set_flow_run_state(run, State(type=ENDS[state.type], message="its worker was killed"))


@contextmanager
def beside() -> Generator[None]:
    """Look every so often for as long as the block lasts. A server that is not there is asked the next time."""
    stop = threading.Event()

    def looking() -> None:
        with get_client(sync_client=True) as client:
            while not stop.wait(LOOK_SECONDS):
                try:
                    bring_back(client, datetime.now(UTC))
                except (httpx.HTTPError, PrefectHTTPStatusError):
                    continue

    # A daemon: a request may still wait for its answer when the block ends. Prefect's settings are the context's.
    threading.Thread(target=copy_context().run, args=(looking,), name="comebacks", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
