"""The planned files written, each byte once, by as many threads as there are cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby, zip_longest
from pathlib import Path

import torch

from tasks.core import disk, events
from tasks.core.errors import DISK_FULL, ResourceError
from tasks.ml.merging import change, ranges
from tasks.ml.merging.change import Left
from tasks.ml.merging.shards import Part, Shard

Job = Callable[[], None]


def check_room(shards: Sequence[Shard], into: Path) -> None:
    """ResourceError: the disk has no room for what is not shared with the base."""
    needed, free = sum(shard.size for shard in shards if not shard.shared), disk.free(into)
    if needed > free:
        raise ResourceError(
            f"{into}: the merged weights take {needed:,} bytes, and {free:,} are free there: {DISK_FULL}"
        )


def write(shards: Sequence[Shard]) -> dict[str, Left]:
    """What is left of each change, by the tensor's name. ModelError: a tensor does not fit its update, or is not finite."""
    done = _Done(sum(shard.size for shard in shards))
    room = _Room(max((part.memory for shard in shards for part in shard.parts), default=0))
    for shard in (shard for shard in shards if not shard.shared):
        _begin(shard)
    with _one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(job) for job in _in_turns([list(_jobs(shard, done, room)) for shard in shards])]
        try:
            for job in as_completed(running):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done.left


def _begin(shard: Shard) -> None:
    """The file in its full size, with its header. A disk without room says so now and not in the middle."""
    with shard.target.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shard.size)
        file.write(shard.head)


def _in_turns(jobs: Sequence[Sequence[Job]]) -> Iterator[Job]:
    """One of each file after the other: two writers of one file would wait for each other in the kernel."""
    return (job for job in chain.from_iterable(zip_longest(*jobs)) if job is not None)


@contextmanager
def _one_thread_each() -> Generator[int]:
    """As many workers as this process may use cores; torch's own threads would only stand in their way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield int(os.environ.get("TUNELINE_THREADS", len(os.sched_getaffinity(0))))
    finally:
        torch.set_num_threads(before)


class _Done:
    """What is done so far: bytes of the files, and the changed tensors."""

    def __init__(self, total: int) -> None:
        self.left: dict[str, Left] = {}
        self._lock, self._bytes, self._total = threading.Lock(), 0, total

    def add(self, count: int, name: str | None = None, left: Left | None = None) -> None:
        with self._lock:
            self._bytes += count
            if name is not None and left is not None:
                self.left[name] = left
            events.progress("merge", self._bytes, self._total, tensors=len(self.left))


class _Room:
    """Memory that several threads share: the largest tensor's, and smaller ones beside each other up to as much."""

    def __init__(self, size: int) -> None:
        self._free, self._changed = size, threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Generator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def _jobs(shard: Shard, done: _Done, room: _Room) -> Iterator[Job]:
    """A job a tensor that is made anew, one for each run of tensors whose bytes stay."""
    if shard.shared:
        yield partial(_share, shard, done)
        return
    done.add(len(shard.head))
    for stays, parts in groupby(shard.parts, key=lambda part: part.stays):
        if stays:
            yield partial(_copy, shard, list(parts), done)
        else:
            yield from (partial(_make, shard, part, done, room) for part in parts)


def _share(shard: Shard, done: _Done) -> None:
    ranges.take(shard.source, shard.target)
    done.add(shard.size)


def _copy(shard: Shard, parts: Sequence[Part], done: _Done) -> None:
    with _opened(shard.source, shard.target) as (source, target):
        for part in parts:
            place = part.source.place
            ranges.copy(source, place.start, place.end - place.start, target, part.start, done.add)


def _make(shard: Shard, part: Part, done: _Done, room: _Room) -> None:
    with room.taken(part.memory), _opened(part.source.file, shard.target) as descriptors:
        left = None
        if part.place is None:
            change.convert(part.source, part.name, descriptors, part.start, part.dtype)
        else:
            left = change.write(part.source, part.place.update, part.name, descriptors, part.start, part.dtype)
    done.add(part.end - part.start, part.name, left)


@contextmanager
def _opened(source: Path, target: Path) -> Generator[tuple[int, int]]:
    descriptors = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY)
    try:
        yield descriptors
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
