"""An ordered map over processes: the same answers in the same order, however many there are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tasks.core.errors import DataError, ParamsError, ResourceError
from tasks.data import parallel

_start: list[int] = []


def begin(number: int) -> None:
    _start[:] = [number]


def work(item: int) -> tuple[int, int]:
    time.sleep(0.01 * (item % 3))
    return item + _start[0], os.getpid()


def fail(item: int) -> int:
    if item == 3:
        raise DataError("row 3")
    return item


def die(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_answers_keep_the_items_order_and_few_items_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 41):
            taken = number
            yield number

    ahead = 0
    with parallel.processes(2, begin, 100) as mapped:
        answers = list[tuple[int, int]]()
        for answer in mapped(work, items()):
            answers.append(answer)
            ahead = max(ahead, taken - len(answers))
    assert [answer for answer, _ in answers] == [100 + item for item in range(1, 41)]
    assert {pid for _, pid in answers} != {os.getpid()} and ahead <= 4


def test_one_process_is_this_one() -> None:
    with parallel.processes(1, begin, 1) as mapped:
        assert list(mapped(work, [1])) == [(2, os.getpid())]


def test_an_error_comes_through_and_a_killed_process_is_named() -> None:
    with pytest.raises(DataError, match="row 3"), parallel.processes(2, begin, 0) as mapped:
        list(mapped(fail, range(100)))
    with pytest.raises(ResourceError, match="TUNELINE_THREADS"), parallel.processes(2, begin, 0) as mapped:
        list(mapped(die, range(4)))


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_a_wrong_number_of_threads_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TUNELINE_THREADS", text)
    with pytest.raises(ParamsError, match="TUNELINE_THREADS"):
        parallel.workers()
