"""Processes that end in other ways than by finishing, for test_world.py. Nothing of torch is imported."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tasks.core import events
from tasks.core.errors import DataError
from tasks.core.sections import TrainParams

SECOND = os.environ.get("RANK") == "1"


def refuse(_params: TrainParams, *, out: Path) -> None:
    """The second process finds something wrong, the first would go on."""
    events.note(f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
    if SECOND:
        raise DataError("row 7 of day2.jsonl: no answer")
    _stay(out)


def die(_params: TrainParams, *, out: Path) -> None:
    if SECOND:
        os.kill(os.getpid(), signal.SIGKILL)
    _stay(out)


def crash(_params: TrainParams, *, out: Path) -> None:
    if SECOND:
        raise RuntimeError("nobody foresaw this")
    _stay(out)


def stay(_params: TrainParams, *, out: Path) -> None:
    _stay(out)


def _stay(out: Path) -> None:
    (out / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(300)
