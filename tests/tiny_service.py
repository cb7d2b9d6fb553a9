"""A small real server as a service, and processes that use it.

Run as a program (`python tiny_service.py HOME BEHAVIOUR`), this file is one user in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.storage import guard
from tasks.storage.guard import Probe
from tasks.storage.process import Process, identify
from tasks.storage.service import Launch, Ports, Service, running

PATIENCE = 20.0
"""Seconds after which a wait is a failure; no test measures how long anything takes."""

SERVER = """
import fcntl, http.server, json, os, pathlib, signal, subprocess, sys, time

port, behaviour = int(sys.argv[1]), sys.argv[2]
only = open("only", "w")
try:
    fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    pathlib.Path("overlap").touch()  # two instances at once: the fixture fails the test
    sys.exit("another instance runs")
pathlib.Path(f"start-{os.getpid()}").touch()
if behaviour == "dies" or pathlib.Path("die").exists():
    sys.exit("no such licence: weekdays only")
if behaviour == "never ready":
    print("waiting for something that never comes", flush=True)
    time.sleep(1000)
if behaviour == "slow":
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
if behaviour == "port taken once" and not pathlib.Path("go").exists():
    pathlib.Path("port.new").write_text(str(port))
    pathlib.Path("port.new").rename("port")
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import signal, time; signal.pause()"])
    pathlib.Path("child").write_text(str(child.pid))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "environment": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def service(home: Path, behaviour: str = "normal") -> Service:
    def launch(ports: Ports) -> Launch:
        return Launch(
            argv=[sys.executable, "-S", "-c", SERVER, str(ports["http"]), behaviour],
            probes=[Probe(ports["http"], pattern='"pid"')],
            environment={"BEHAVIOUR": behaviour},
            leftovers=[str(home / "left over"), str(home / "left folder")],
        )

    return Service("tiny", home, home / "tiny", ports=("http",), launch=launch, grace_seconds=5.0)


@dataclass(frozen=True)
class User:
    """Another process that uses the service until it is told to leave."""

    process: subprocess.Popen[str]

    def server(self) -> Process:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the user process ended with {self.process.wait()}"
        return Process(**json.loads(line))

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def starts(home: Path) -> list[int]:
    return [int(path.name.removeprefix("start-")) for path in (home / "tiny").glob("start-*")]


def alive_anyhow(pid: int, home: Path) -> bool:
    """Whether this number is still one of our servers, whose working folder is in the home."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(home)
    return False


def ask(port: int) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        return json.load(answer)


def server_at(port: int) -> Process:
    return identify(int(str(ask(port)["pid"])))


def next_server_at(port: int) -> Process:
    """Of one that was killed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return server_at(port)
        except OSError:
            assert time.monotonic() < deadline, "no other server came"
            time.sleep(0.02)


def wait_for(path: Path) -> Path:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
    return path


def wait_until_blocked_on(path: Path) -> None:
    inode, deadline = f":{path.stat().st_ino} ", time.monotonic() + PATIENCE
    while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < deadline, f"nobody waits for {path}"
        time.sleep(0.02)


def state_of(home: Path) -> guard.State:
    state = guard.read_state(home / "tiny.json")
    assert state is not None
    return state


def main(arguments: Sequence[str]) -> None:
    home, behaviour = arguments
    with running(service(Path(home), behaviour)) as endpoint:
        server = server_at(endpoint.ports["http"])
        print(json.dumps({"pid": server.pid, "started": server.started}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
