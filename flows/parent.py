"""A run that `tuneline up` serves ends with it: it would go on with a server and a store that are gone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

VARIABLE = "TUNELINE_SERVED_BY"
"""Number of the process that starts the runs, told to them by it."""
POLL_SECONDS = 0.5


def watch(environ: Mapping[str, str]) -> None:
    """End this process when the one that serves it is gone; its stages watch this one (flows/supervise.py)."""
    if environ.get(VARIABLE) == str(os.getppid()):
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
