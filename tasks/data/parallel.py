"""An ordered map over processes that never holds more than a few items."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from tasks.core.errors import ParamsError, ResourceError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Mapped = Callable[[Callable[[Item], Answer], Iterable[Item]], Iterator[Answer]]


def workers() -> int:
    """`TUNELINE_THREADS` if set, else the processor cores that this process may use."""
    text = os.environ.get("TUNELINE_THREADS") or str(len(os.sched_getaffinity(0)))
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ParamsError(f"TUNELINE_THREADS is {text!r}: set it to a whole number from 1, or unset it")
    return int(text)


@contextmanager
def processes(count: int, start: Callable[..., None], *arguments: Any) -> Generator[Mapped[Any, Any]]:
    """A map over `count` processes, each begun with `start(*arguments)`; with one, in this very process.

    Law: answers come in the order of the items, whatever `count` is. ResourceError: a process was killed.
    """
    with _collecting_between_items():
        if count == 1:
            start(*arguments)
            yield lambda function, items: (_one(function, item) for item in items)
            return
        # Not fork: the tokenizer's and Arrow's threads would not survive it. The server of this kind has no threads,
        # and what it has imported each of its children has at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tasks.data.blocks", "tasks.data.arrival"])
        with ProcessPoolExecutor(count, context, _begin, (start, arguments)) as pool:
            try:
                yield lambda function, items: _ordered(pool, count + 2, function, items)
            except BrokenProcessPool:
                raise ResourceError(
                    "a worker process was killed, most likely for its memory: set TUNELINE_THREADS lower, then run again"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@contextmanager
def _collecting_between_items() -> Generator[None]:
    """Rows are many small objects without cycles: looking for cycles among them again and again, as the collector does
    by itself, takes up to two thirds of the time. What is old by now is not looked at at all.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    start(*arguments)
    gc.collect()
    gc.freeze()
    gc.disable()


def _one(function: Callable[[Item], Answer], item: Item) -> Answer:
    answer = function(item)
    gc.collect(1)
    return answer


def _ordered(
    pool: ProcessPoolExecutor, ahead: int, function: Callable[[Item], Answer], items: Iterable[Item]
) -> Iterator[Answer]:
    pending, rest = deque[Future[Answer]](), iter(items)
    for item in islice(rest, ahead):
        pending.append(pool.submit(_one, function, item))
    while pending:
        yield pending.popleft().result()
        gc.collect(0)
        for item in islice(rest, 1):
            pending.append(pool.submit(_one, function, item))
