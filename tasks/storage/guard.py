"""Keeps one server running for as long as somebody holds its users lock, and ends it right after. One that dies meanwhile
is begun again, on the same ports.

A process of its own (`python -m tasks.storage.guard`; an `Order` as JSON on stdin, one outcome as JSON on stdout),
standard library only. Two locks are the whole protocol, and the kernel takes them back from whoever is killed:

    NAME.lock     exclusive, while somebody joins, leaves, starts or stops the service
    NAME.users    shared, by each user for as long as it uses the service

Law: a server is in NAME.json from its first moment to its last, so whoever holds NAME.lock knows it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.storage.process import Process, alive, end_group, held, identify, listens

POLL_SECONDS = 0.3
START_POLL_SECONDS = 0.03
PROBE_SECONDS = 2.0
FAILURES = 5
"""Starts in a row without an answer, or with a life of less than SHORT_SECONDS, after which a server is given up."""
SHORT_SECONDS = 10.0


@dataclass(frozen=True)
class Probe:
    """A GET on the loopback interface that a ready server answers with `status` and a body in which `pattern` is."""

    port: int
    path: str = "/"
    status: int = 200
    pattern: str = ""


@dataclass(frozen=True)
class State:
    """NAME.json: the running instance, how to see that it answers, and what to remove once it is gone."""

    guard: Process
    server: Process
    ports: Mapping[str, int]
    probes: Sequence[Probe]
    leftovers: Sequence[str]


@dataclass(frozen=True)
class Order:
    """All that a guard needs to know; `environment` is the server's whole environment."""

    name: str
    home: str
    folder: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    probes: Sequence[Probe]
    ports: Mapping[str, int]
    leftovers: Sequence[str]
    start_seconds: float
    grace_seconds: float


@dataclass(frozen=True)
class Files:
    """Where a service keeps its locks, its state and its log."""

    lock: Path
    users: Path
    state: Path
    log: Path


def files(home: Path, name: str) -> Files:
    return Files(*(home / f"{name}.{suffix}" for suffix in ("lock", "users", "json", "log")))


def answers(probe: Probe) -> bool:
    import http.client  # half of this module's import time, and most commands never probe twice

    connection = http.client.HTTPConnection("127.0.0.1", probe.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", probe.path)
        response = connection.getresponse()
        body = response.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == probe.status and re.search(probe.pattern, body) is not None


def ready(state: State) -> bool:
    """Whether it answers: it, and no other program that was faster with one of its ports, which answers just as well while
    the server has yet to find out."""
    return (
        alive(state.server)
        and all(map(answers, state.probes))
        and all(listens(state.server, probe.port) for probe in state.probes)
    )


def read_state(path: Path) -> State | None:
    """None where the file is absent or holds no state: then nothing runs that a guard started."""
    try:
        value = json.loads(path.read_bytes())
        return State(
            guard=Process(**value["guard"]),
            server=Process(**value["server"]),
            ports=value["ports"],
            probes=[Probe(**probe) for probe in value["probes"]],
            leftovers=value["leftovers"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def clear(path: Path, leftovers: Sequence[str]) -> None:
    """Remove what a server that is gone left behind, its state last."""
    for leftover in map(Path, leftovers):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def main() -> None:
    order = _order(json.load(sys.stdin))
    if os.fork():
        os._exit(0)  # init becomes the guard's parent, so that no user ever has to reap it
    signal.signal(signal.SIGTERM, _leave)
    os.umask(0o077)
    _serve(order, files(Path(order.home), order.name))


def _order(value: dict[str, Any]) -> Order:
    probes = [Probe(**probe) for probe in value.pop("probes")]
    return Order(**value, probes=probes)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _serve(order: Order, places: Files) -> None:
    """The lives of a server, one after the other; SIGTERM to the guard ends them at once."""
    lives = _Lives()
    while _live(order, places, lives):
        pass


class _Lives:
    """Whether another follows: only where the first one answered, and not when too many have failed."""

    def __init__(self) -> None:
        self._answered, self._failures = False, 0

    def go_on(self, outcome: str, seconds: float) -> bool:
        """After a life that ended so, so long after its server had answered."""
        if outcome == "dead":
            self._answered = True
        elif outcome not in ("died", "late"):
            return False
        self._failures = 0 if seconds >= SHORT_SECONDS else self._failures + 1
        return self._answered and self._failures < FAILURES


def _live(order: Order, places: Files, lives: _Lives) -> bool:
    """One life, and whether another follows. Law: from the first to the last of them the state is there, so that a
    newcomer waits for the next one rather than begin another beside it."""
    child = _launch(order)
    state = State(identify(os.getpid()), identify(child.pid), order.ports, order.probes, order.leftovers)
    outcome, since, follows = "failed", time.monotonic(), False
    try:
        _write(places.state, state)
        outcome = _start(state, order, places)
        since = time.monotonic()
        if outcome == "ready":
            _report(outcome, None)
            outcome = _watch(state, order, places)
        follows = lives.go_on(outcome, time.monotonic() - since)
    finally:
        handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_group(state.server, order.grace_seconds)
        status = child.wait()
        if not follows and read_state(places.state) == state:  # else a newcomer has cleared up and gone on
            clear(places.state, order.leftovers)
        _report(outcome, status)  # heard only where nothing was reported before
        signal.signal(signal.SIGTERM, handler)
    return follows


def _watch(state: State, order: Order, places: Files) -> str:
    """`left` when nobody uses the server any more, `dead` when it is."""
    while alive(state.server):
        if _deserted(state, order, places):
            return "left"
        time.sleep(POLL_SECONDS)
    return "dead"


def _launch(order: Order) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        order.argv,
        cwd=order.folder,
        env=order.environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # the log file
        process_group=0,
        preexec_fn=_die_with_parent(),  # noqa: PLW1509  the guard has no other threads
    )


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel kills the server when its guard is killed; elsewhere the next user does."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def _write(path: Path, state: State) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(asdict(state)), encoding="utf-8")
    new.replace(path)


def _start(state: State, order: Order, places: Files) -> str:
    """`ready`, or why not: it `died`, it is `late`, or whoever wanted it has `left`."""
    deadline = time.monotonic() + order.start_seconds
    while alive(state.server):
        if ready(state):
            return "ready"
        if _deserted(state, order, places):
            return "left"
        if time.monotonic() > deadline:
            return "late"
        time.sleep(START_POLL_SECONDS)
    return "died"


def _deserted(state: State, order: Order, places: Files) -> bool:
    """Stop the server if nobody uses it and nobody is about to; until it is gone nobody can come."""
    with held(places.lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as quiet:
        if not quiet:
            return False
        with held(places.users, fcntl.LOCK_EX | fcntl.LOCK_NB) as unused:
            pass
        if unused:
            end_group(state.server, order.grace_seconds)
            clear(places.state, order.leftovers)
        return unused


def _report(outcome: str, status: int | None) -> None:
    """Tell whoever asked for the service, once, and close the pipe."""
    with suppress(BrokenPipeError):
        os.write(1, json.dumps({"outcome": outcome, "status": status}).encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    main()
