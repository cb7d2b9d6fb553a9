"""From the queue to the Prefect server: what has landed is announced, whatever breaks in between."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tasks.core.errors import ParamsError, TransientError, TunelineError
from tasks.storage import queue
from tasks.storage.notices import Landed
from tasks.storage.queue import Look, Queue

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""Until the next try: twice as long each time."""
REMEMBERED = 1000
"""Foreign messages that were warned of: one comes back until it is a dead letter."""

Done = TypeVar("Done")
Tell = Callable[[Sequence[Landed]], None]
Warn = Callable[[str], None]


class Try(Protocol):
    """How a request is made."""

    def __call__(self, act: Callable[[], Done], /) -> Done: ...


def queue_of(environ: Mapping[str, str]) -> Queue | None:
    """The queue that the environment names. ParamsError: it names no landing place to go with it."""
    if not (url := environ.get(queue.VARIABLE)):
        return None
    if not environ.get("TUNELINE_LANDING"):
        raise ParamsError(
            f"{queue.VARIABLE} is set, but TUNELINE_LANDING is not: set it to the s3://BUCKET/PREFIX that the queue is "
            f"told of, or unset {queue.VARIABLE}"
        )
    return Queue.open(url, environ)


def once(act: Callable[[], Done], /) -> Done:
    return act()


def hand_on(source: Queue, tell: Tell, warn: Warn, wait: int = queue.SETTLE, request: Try = once) -> Look:
    """Look once, and tell of all that lies there in one call.

    Law: a message is deleted only after `tell` has returned.
    """
    look = request(lambda: source.look(wait))
    for message in look.foreign:
        warn(f"message {message} in {source.url} is no notification of S3's: it stays there until it is a dead letter")
    if look.files:
        request(lambda: tell(look.files))
    request(lambda: source.delete(look))
    return look


def listen(source: Queue, tell: Tell, warn: Warn, stop: threading.Event) -> None:
    """Hand on what lands until `stop` is set. What gives no answer is asked again for ever, with a warning each time.

    Raises the error that another try would not cure: StorageError, ServiceError.
    """
    patient = _Patient(warn, stop)
    try:
        patient(source.check)
        while not stop.is_set():
            look = hand_on(source, tell, patient.warn_once, queue.LONG_POLL, patient)
            if not look.handles:
                stop.wait(1)  # a queue that makes foreign messages visible at once would be asked without a pause
    except TransientError:
        if not stop.is_set():
            raise


class _Patient:
    """Asks again and again, until it is to stop."""

    def __init__(self, warn: Warn, stop: threading.Event) -> None:
        self._warn, self._stop = warn, stop
        self._said: deque[str] = deque(maxlen=REMEMBERED)

    def __call__(self, act: Callable[[], Done], /) -> Done:
        delay = FIRST_SECONDS
        while True:
            try:
                return act()
            except TransientError as error:
                if self._stop.is_set():
                    raise
                self._warn(f"{error}; asked again in {delay:.0f} s")
                if self._stop.wait(delay):
                    raise
                delay = min(2 * delay, LONGEST_SECONDS)

    def warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.append(text)
            self._warn(text)


@contextmanager
def beside(source: Queue, tell: Tell) -> Generator[None]:
    """Listen in a thread for as long as the block lasts. An error that ends it is said; the block goes on."""
    stop = threading.Event()

    def listening() -> None:
        try:
            listen(source, tell, say, stop)
        except TunelineError as error:
            if not stop.is_set():
                after = "until the next start what lands is only looked for by schedule"
                print(f"error: {error}; {after}", file=sys.stderr, flush=True)

    # A daemon: a request may still wait for its answer when the block ends.
    threading.Thread(target=listening, name="queue", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
