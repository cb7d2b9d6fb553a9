"""Whom the server forgot: a crashed run of the line that nothing has brought back. Looked for beside `tuneline up`.

The automation (flows/automations.py) does it at once, where its event is evaluated. On SQLite, Prefect 3.8.8 gives an event up
whose evaluation met a busy database four times, and puts off for 15 minutes what follows on the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError

from flows.automations import AGAIN, GOES_ON, OURS

LOOK_SECONDS = 15.0
LEFT_TO_THE_SERVER = timedelta(seconds=30)

FORGOTTEN = FlowRunFilter.model_validate({
    "tags": {"all_": [OURS, GOES_ON]}, "state": {"type": {"any_": ["CRASHED"]}}, "deployment_id": {"is_null_": False},
})  # fmt: skip
"""A run without a deployment has nobody who would begin it again."""


def bring_back(client: SyncPrefectClient, now: datetime) -> list[str]:
    """Begin the forgotten runs again; their names."""
    found = client.read_flow_runs(flow_run_filter=FORGOTTEN)
    runs = [run for run in found if run.state and now - run.state.timestamp > LEFT_TO_THE_SERVER]
    for run in runs:
        client.set_flow_run_state(run.id, State.model_validate(AGAIN), force=True)
    return [run.name for run in runs]


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
