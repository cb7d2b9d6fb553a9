"""A run that `tuneline up` serves has one process, and ends with it: it would go on with a server and a store that are gone."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from uuid import UUID

from tasks.core import layout
from tasks.storage.process import held

VARIABLE = "TUNELINE_SERVED_BY"
"""Number of the process that starts the runs, told to them by it."""
POLL_SECONDS = 0.5
LOCKS = layout.HOME / "served"

_locks = ExitStack()
"""Of this process, until it ends."""


def watch(environ: Mapping[str, str], run: UUID | str | None) -> None:
    """End this process when the one that serves it is gone; its stages watch this one (flows/supervise.py).

    And end it at once where another process has the run: a server that evaluates the event of a crash late (flows/comebacks.py)
    has it begun a second time. The first one tells how it ends.
    """
    if environ.get(VARIABLE) != str(os.getppid()):
        return
    LOCKS.mkdir(parents=True, exist_ok=True)
    lock = LOCKS / str(run)
    if not _locks.enter_context(held(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)):
        os._exit(0)  # no end of the run is told
    atexit.register(lock.unlink, missing_ok=True)  # what stays is left by those that were killed
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def left() -> list[UUID]:
    """The runs whose processes were killed, and of which nobody may have told the server."""
    return [UUID(lock.name) for lock in LOCKS.glob("*-*-*-*-*")]


def begin() -> None:
    """For the one that is about to serve, and knows what was left."""
    shutil.rmtree(LOCKS, ignore_errors=True)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
