"""Which services a command uses: those that the environment names, else embedded ones under .tuneline/."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flows.server import prefect_server
from tasks.core import layout
from tasks.storage.embedded import s3
from tasks.storage.registry import DEFAULT_REGISTRY

USUAL_PORT = 4200
LOGGING = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(task_run_name)s: %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FMT": "%(asctime)s %(message)s",
}
"""One short line an event on a terminal; the UI shows the rest."""


@contextmanager
def services(*, store: bool = False, prefect: bool = False, port: int | None = None) -> Generator[dict[str, str]]:
    """Have them for as long as the block lasts; what they need is in `os.environ` meanwhile, and yielded.

    ServiceError: an embedded one did not start.
    """
    home = Path.cwd() / layout.HOME
    wanted: list[AbstractContextManager[Any]] = []
    named: dict[str, str] = {}
    if store and "TUNELINE_REGISTRY" not in os.environ:
        wanted.append(s3(home))
        named = {
            "TUNELINE_REGISTRY": DEFAULT_REGISTRY
        }  # or a child in another folder would start a store of its own there
    if prefect and "PREFECT_API_URL" not in os.environ:
        wanted.append(prefect_server(home, port))
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


def usual_port() -> int | None:
    """Prefect's own port if it is free, so that the UI has the same address tomorrow; else any.

    For `tuneline up` alone: two servers that start together would both find it free.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return None
    return USUAL_PORT
