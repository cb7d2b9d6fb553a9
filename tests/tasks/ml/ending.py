"""Processes that end in other ways than by finishing, for test_world.py. Nothing of torch is imported."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tasks.core import events
from tasks.core.errors import DataError
from tasks.core.sections import TrainParams


def refuse(_params: TrainParams, *, out: Path) -> None:
    """The second process finds something wrong, the first would go on."""
    events.note(f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
    if _is_second(out):
        raise DataError("row 7 of day2.jsonl: no answer")
    _stay(out)


def die(_params: TrainParams, *, out: Path) -> None:
    if _is_second(out):
        os.kill(os.getpid(), signal.SIGKILL)
    _stay(out)


def crash(_params: TrainParams, *, out: Path) -> None:
    if _is_second(out):
        raise RuntimeError("nobody foresaw this")
    _stay(out)


def stay(_params: TrainParams, *, out: Path) -> None:
    _stay(out)


def _is_second(out: Path) -> bool:
    """The second process waits until the first is there: who ends first ends the other, even one that has yet to begin."""
    if os.environ["RANK"] == "0":
        return False
    while not (out / "pid-0").exists():
        time.sleep(0.02)
    return True


def _stay(out: Path) -> None:
    (out / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(300)
