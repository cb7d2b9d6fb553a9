"""Which services a command uses: those that the environment names, else embedded ones under .tuneline/."""

from __future__ import annotations

import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flows import server
from tasks.core import layout
from tasks.storage.embedded import s3
from tasks.storage.registry import DEFAULT_REGISTRY

USUAL_PORT = 4200
"""Prefect's own: where it is free, the UI of `tuneline up` has the same address tomorrow."""
SIGN_IN = layout.HOME / "prefect" / server.SIGN_IN
"""What the UI of a server of our own asks for stands here."""
LOGGING = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(task_run_name)s: %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FMT": "%(asctime)s %(message)s",
}
"""One short line an event on a terminal; the UI shows the rest."""


@contextmanager
def services(
    *, store: bool = False, prefect: bool = False, port: int | None = None, usual: int | None = None
) -> Generator[dict[str, str]]:
    """Have them for as long as the block lasts; what they need is in `os.environ` meanwhile, and yielded.
    The Prefect server of one's own listens on `port`, else on the `usual` one where it is free.

    ServiceError: an embedded one did not start.
    """
    home = Path.cwd() / layout.HOME
    wanted: list[AbstractContextManager[Any]] = []
    # Named, or a child that works in another folder would start a store of its own there.
    named = {} if "TUNELINE_REGISTRY" in os.environ or not store else {"TUNELINE_REGISTRY": DEFAULT_REGISTRY}
    if named:
        wanted.append(s3(home))
    if prefect and "PREFECT_API_URL" not in os.environ:
        wanted.append(server.prefect_server(home, port, usual))
    before = dict(os.environ)
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=2) as pool:
        settings = LOGGING | named
        for instance in [future.result() for future in [pool.submit(stack.enter_context, each) for each in wanted]]:
            settings |= instance.environment()
        os.environ.update(settings)
        try:
            yield settings
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def flushed() -> Generator[None]:
    """At the end of the block Prefect sends what it still holds, before its server may stop."""
    try:
        yield
    finally:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=10)
        EventsWorker.drain_all(timeout=10)
