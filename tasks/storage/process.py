"""Processes told apart for ever, and the file locks that the kernel takes back when their holder is killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOCK = ".lock"
LISTEN = "0A"
"""The state of a socket that waits for connections, in /proc/net/tcp."""


@dataclass(frozen=True)
class Process:
    """A process that can't be mistaken for a later one with the same number."""

    pid: int
    started: str


def identify(pid: int) -> Process:
    """Law: `alive(identify(pid))` until that process ends, whoever gets its number later."""
    return Process(pid, _started(pid) or "gone")


def alive(process: Process) -> bool:
    return _started(process.pid) == process.started


def gone(process: Process, seconds: float) -> bool:
    """Whether the process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def signal_process(process: Process, number: int) -> None:
    if alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def signal_group(leader: Process, number: int) -> None:
    """Signal the leader's whole process group; the caller knows that the group's number is still the leader's."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, number)


def end_group(leader: Process, grace_seconds: float) -> None:
    """SIGTERM, as much grace as the leader needs, SIGKILL. The leader must not have been reaped yet:
    until then its number, and so its group's, can't be somebody else's."""
    if grace_seconds:
        signal_group(leader, signal.SIGTERM)
        gone(leader, grace_seconds)
    signal_group(leader, signal.SIGKILL)
    gone(leader, 30)


def listens(leader: Process, port: int) -> bool:
    """Whether a process of the leader's group has the TCP port open. True where the system keeps no list of that."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[3] == LISTEN and line[1].endswith(f":{port:04X}")}
    return not tables[0].exists() or any(not sockets.isdisjoint(_open(pid)) for pid in _group(leader))


def _group(leader: Process) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getpgid(int(entry.name)) == leader.pid:
                yield int(entry.name)


def _open(pid: int) -> set[str]:
    """What the descriptors of a process are, as the system spells it."""
    found = set[str]()
    with suppress(OSError):  # it has ended
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(str(entry.readlink()))
    return found


@contextmanager
def held(path: Path, mode: int) -> Generator[bool]:
    """A flock on `path` for the length of the block; False where `LOCK_NB` found it taken."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, mode)
            except BlockingIOError:
                yield False
                return
            if _is_still(path, descriptor):
                yield True
                return
        finally:
            # Closing alone would leave the lock with any child that was forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Not where its last owner removed it meanwhile: the next to ask would make another, and both have "the" lock."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


@contextmanager
def owned(place: Path) -> Generator[None]:
    """Own a folder, by a lock file beside it, for the length of the block. The kernel gives the lock back when the owner
    is killed: that is how `abandoned` tells the dead from the living."""
    lock = _lock(place)
    with held(lock, fcntl.LOCK_EX):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def abandoned(home: Path) -> Iterator[Path]:
    """The folders in `home` whose owners were killed, each to be removed by the loop that asks."""
    for lock in home.glob(f"*{LOCK}"):
        with held(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as dead:
            if dead:
                yield lock.with_name(lock.name.removesuffix(LOCK))
                lock.unlink(missing_ok=True)


def _lock(place: Path) -> Path:
    return place.with_name(place.name + LOCK)


def _started(pid: int) -> str | None:
    """When the process began, as the system spells it; None where it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_without_proc(pid)
    fields = stat.rpartition(")")[2].split()  # the command before it may hold spaces and brackets
    return None if fields[0] in "ZX" else fields[19]


def _started_without_proc(pid: int) -> str | None:
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, since = answer.stdout.strip().partition(" ")
    return None if not status or status.startswith("Z") else since.strip()
