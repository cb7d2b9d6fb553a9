"""The wish of somebody else that a training ends."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """`signal`: what asked for the end; SIGTERM where it was another process of several that was asked."""

    is_set: bool = False
    signal: int = signal.SIGTERM


@contextmanager
def listening() -> Generator[Stop]:
    """SIGTERM and Ctrl-C only set a flag here, so that the step under way ends and a checkpoint is written."""
    stop, previous = Stop(), {number: signal.getsignal(number) for number in map(int, (signal.SIGTERM, signal.SIGINT))}

    def remember(number: int, _frame: object) -> None:
        stop.is_set, stop.signal = True, number
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, remember)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
