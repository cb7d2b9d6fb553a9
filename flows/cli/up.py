"""`tuneline up`: the Prefect server with its UI, the store, and a worker for the deployments, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from flows import exposition, listening
from flows.services import SIGN_IN, USUAL_PORT, services
from tasks.core import layout, params
from tasks.core.errors import ServiceError, TransientError
from tasks.storage.process import held
from tasks.storage.queue import Queue


def main(arguments: argparse.Namespace) -> int:
    metrics_port, queue = exposition.port_of(os.environ), _queue()
    with (
        _alone(),
        services(store=True, prefect=True, port=arguments.port, usual=USUAL_PORT) as settings,
        _page(metrics_port) as page,
    ):
        from prefect.client.orchestration import get_client

        from flows import automations, comebacks, parent
        from tasks.storage.registry import Registry

        print(f"Prefect UI: {os.environ['PREFECT_API_URL'].removesuffix('/api')}")
        if "PREFECT_API_URL" in settings:  # a server of our own
            print(f"sign in:    with what {SIGN_IN} holds")
        print(f"registry:   {Registry.open(os.environ).store.url} at {os.environ.get('AWS_ENDPOINT_URL_S3', 'AWS')}")
        landing = os.environ.get("TUNELINE_LANDING")
        print(
            f"landing:    {landing or 'none: set TUNELINE_LANDING, and rows that land there are taken in and trained on'}"
        )
        if queue:
            print(f"queue:      {queue.url}")
        if page:
            print(f"metrics:    {page}")
        automations.install(os.environ, params.load().limits)
        with get_client(sync_client=True) as client:
            comebacks.take_up(client, parent.left())
        parent.begin()
        os.environ.update(automations.HEARTBEAT, **{parent.VARIABLE: str(os.getpid())})  # for the runs that it starts
        print("Ctrl-C stops all of it.", flush=True)
        _serve(queue, landing=landing is not None)
    return 0


@contextmanager
def _alone() -> Generator[None]:
    """ServiceError: another one serves this checkout."""
    layout.HOME.mkdir(exist_ok=True)
    with held(layout.HOME / "up.lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as first:
        if not first:
            raise ServiceError("tuneline up: another one serves this checkout already; stop that one first (Ctrl-C)")
        yield


def _queue() -> Queue | None:
    """Opened before an embedded store's credentials take the place of the user's own. Its errors end the command at once;
    one that only gives no answer is asked again later."""
    queue = listening.queue_of(os.environ)
    try:
        if queue:
            queue.check()
    except TransientError as error:
        listening.say(str(error))
    return queue


def _page(port: int | None) -> AbstractContextManager[str | None]:
    """Before Prefect is imported, which takes prometheus_client as it finds it; after its server has started, which would
    count into the same folder."""
    return exposition.served(Path.cwd(), port) if port else nullcontext()


def _serve(queue: Queue | None, *, landing: bool) -> None:
    """As `prefect.serve`, which would not say when the deployments are there: an event before that would start nothing."""
    from prefect.exceptions import TerminationSignal

    from flows import comebacks, deployments
    from flows.runner import Runner

    # On SIGTERM Prefect's runner stops well but forgets to await itself, which would be all that the user sees.
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited")
    runner = Runner()
    for deployment in deployments.made(landing=landing):
        runner.add_deployment(deployment)
    with _listening(queue), comebacks.beside():
        try:
            asyncio.run(runner.start())
        except (KeyboardInterrupt, TerminationSignal):
            pass  # it has stopped, and its runs with it


@contextmanager
def _listening(queue: Queue | None) -> Generator[None]:
    if queue is None:
        yield
        return
    from flows import arrivals

    with listening.beside(queue, arrivals.announce):
        yield
