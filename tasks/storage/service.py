"""Services that live exactly as long as somebody uses them: started on demand, shared, and gone with the last user.

Law: at any moment at most one instance of a service runs in a home, whoever is killed when.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tasks.core.errors import ServiceError, from_os_error
from tasks.storage import guard
from tasks.storage.guard import Files, Order, Probe, State
from tasks.storage.process import alive, end_group, gone, held, signal_process

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
"""A shared server must not depend on which user happened to start it, nor keep that user's secrets."""

ATTEMPTS = 5
TAIL_LINES = 12
HIGHEST_PORT = 55535
"""Some servers (SeaweedFS) listen 10,000 above a port they were given, too."""

PORT_TAKEN = re.compile(r"address already in use|port .*(is not available|already in use)", re.IGNORECASE)

Ports = Mapping[str, int]


@dataclass(frozen=True)
class Launch:
    """One way to start a server: `environment` comes on top of `INHERITED`, `leftovers` go when it has ended."""

    argv: Sequence[str]
    probes: Sequence[Probe]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    leftovers: Sequence[str] = ()


@dataclass(frozen=True)
class Service:
    """A server that `launch` describes once its ports are known.

    `home` holds its locks, state and log; it starts in `folder`. `fixed` gives ports that must be these and no
    others, `usual` some that are taken where they are free. Without grace it gets no SIGTERM but SIGKILL at once: for
    servers that can stand it.
    """

    name: str
    home: Path
    folder: Path
    ports: tuple[str, ...]
    launch: Callable[[Ports], Launch]
    fixed: Ports = field(default_factory=dict[str, int])
    usual: Ports = field(default_factory=dict[str, int])
    start_seconds: float = 60.0
    grace_seconds: float = 5.0


@dataclass(frozen=True)
class Endpoint:
    """Where a running service listens on 127.0.0.1."""

    ports: Ports
    log: Path

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"


@contextmanager
def running(service: Service) -> Generator[Endpoint]:
    """Use the service for as long as the block lasts; the last of its users waits until it is gone.

    ServiceError: it died or did not answer in time. ResourceError: the home can't be written to.
    """
    service = replace(service, home=service.home.absolute(), folder=service.folder.absolute())  # the caller may chdir
    places = guard.files(service.home, service.name)
    with ExitStack() as stack:
        try:
            service.folder.mkdir(parents=True, exist_ok=True)
            service.home.mkdir(parents=True, exist_ok=True)
            state = _enter(service, places, stack)
        except OSError as error:
            raise from_os_error(error, f"the {service.name} service could not use its folder") from None
        yield Endpoint(state.ports, places.log)


def _enter(service: Service, places: Files, stack: ExitStack) -> State:
    """Become a user of the running instance, or of a new one."""
    with held(places.lock, fcntl.LOCK_EX):
        mine = stack.enter_context(ExitStack())
        mine.enter_context(held(places.users, fcntl.LOCK_SH))
        state = _joined(service, places) or _begun(service, places)
    stack.callback(_leave, service, places, mine)
    return state


def _leave(service: Service, places: Files, mine: ExitStack) -> None:
    """Stop being a user; the last one ends the service rather than let the guard find out."""
    with held(places.lock, fcntl.LOCK_EX):
        mine.close()
        with held(places.users, fcntl.LOCK_EX | fcntl.LOCK_NB) as last:
            pass
        if last and (state := guard.read_state(places.state)):
            _end(state, service, places)


def _joined(service: Service, places: Files) -> State | None:
    """The instance that runs, once it answers; what is left of any other is removed."""
    last: State | None = None
    deadline = time.monotonic() + service.start_seconds  # whoever began to start it may have been killed since
    while (state := guard.read_state(places.state)) and alive(state.guard) and time.monotonic() < deadline:
        if guard.ready(state):
            return state
        last = state
        time.sleep(guard.START_POLL_SECONDS)
    if left := state or last:
        _end(left, service, places)
    return None


def _end(state: State, service: Service, places: Files) -> None:
    """End an instance, whatever is left of it. Law: nothing of it is left afterwards."""
    signal_process(state.guard, signal.SIGTERM)
    if not gone(state.guard, service.grace_seconds + 10):
        signal_process(state.guard, signal.SIGKILL)
    if alive(state.server):
        end_group(state.server, service.grace_seconds)
    if guard.read_state(places.state):
        guard.clear(places.state, state.leftovers)


def _begun(service: Service, places: Files) -> State:
    """A new instance; where another program was faster with a port, with other ports."""
    for attempt in range(ATTEMPTS):
        if taken := [port for port in service.fixed.values() if _taken(port)]:
            raise ServiceError(
                f"{service.name} can't listen on port {taken[0]}: another program does. "
                "Stop that program, or choose another port."
            )
        usual = {} if attempt else {name: port for name, port in service.usual.items() if not _taken(port)}
        ports = {**free_ports([name for name in service.ports if name not in service.fixed]), **usual, **service.fixed}
        outcome, status = _ask_guard(_order(service, ports), places)
        if outcome == "ready" and (state := guard.read_state(places.state)):
            return state
        if outcome != "died" or not _lost_a_port(ports, places.log):
            raise _failure(service, outcome, status, places.log)
    raise ServiceError(
        f"{service.name} found a port of its taken {ATTEMPTS} times running: see {places.log}, then try again"
    )


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A port that is free now for each name. Another program may take it before the server does."""
    ports: dict[str, int] = {}
    with ExitStack() as stack:  # all stay bound until the last is found, so that they differ
        while len(ports) < len(names):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            if (port := listener.getsockname()[1]) <= HIGHEST_PORT:
                ports[names[len(ports)]] = port
    return ports


def _lost_a_port(ports: Ports, log: Path) -> bool:
    """Another program has a port, or had it only for a moment and the server's own words must do."""
    return any(map(_taken, ports.values())) or bool(
        PORT_TAKEN.search(log.read_text(encoding="utf-8", errors="replace"))
    )


def _taken(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections don't count
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _order(service: Service, ports: Ports) -> Order:
    launch = service.launch(ports)
    return Order(
        name=service.name,
        home=str(service.home),
        folder=str(service.folder),
        argv=list(launch.argv),
        environment={**_inherited(), **launch.environment},
        probes=list(launch.probes),
        ports=ports,
        leftovers=list(launch.leftovers),
        start_seconds=service.start_seconds,
        grace_seconds=service.grace_seconds,
    )


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def _ask_guard(order: Order, places: Files) -> tuple[str, int | None]:
    """Start a guard and hear how its server's start ended."""
    with places.log.open("wb") as log, subprocess.Popen(
        # -S: the guard needs no site-packages, and starts in a third of the time. The last words are for `ps`.
        [sys.executable, "-P", "-S", "-m", "tasks.storage.guard", order.name, order.home],
        env={**_inherited(), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    ) as starter:  # fmt: skip
        answer, _ = starter.communicate(json.dumps(asdict(order)).encode())
    if not answer:
        return "failed", None
    value = json.loads(answer)
    return value["outcome"], value["status"]


def _failure(service: Service, outcome: str, status: int | None, log: Path) -> ServiceError:
    what = {
        "died": f"ended with status {status} before it answered",
        "late": f"did not answer within {service.start_seconds:g} s",
    }.get(outcome, "could not be started")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-TAIL_LINES:]
    tail = "".join(f"\n  {line}" for line in lines) or " nothing"
    return ServiceError(
        f"the {service.name} service {what}. Mend what its log names, then run the same command again. "
        f"{log} ends with:{tail}"
    )
