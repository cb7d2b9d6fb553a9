"""The line by itself for a while, on a real server, worker and store, with faults: `make soak`.

Files land one after the other, as events tell; meanwhile trainings, runs, the worker and the server are killed, and the store
fails for a while. In the end every row is accounted for, each data version was trained on once, came with a later one or waits
for a reason, one version is the champion, and nothing is left running or held. Prints those counts; exits 1 if one is wrong.

The Prefect server runs on PostgreSQL where that is installed, else on SQLite.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.storage import continuing
from tasks.storage.claims import Claims
from tasks.storage.corpus import Corpus
from tasks.storage.embedded import s3
from tasks.storage.process import Process, alive, identify
from tasks.storage.registry import Registry
from tasks.storage.service import free_ports
from tasks.storage.verification import verify
from tests import tiny
from tests.faulty_store import Proxy, proxied, refusal
from tests.project import ROOT, Project
from tests.serving import FINAL, Server, flows, kill, processes, serving, until

MODEL = "soaked"
ROWS = 20
SEED = 7
CALM_SECONDS = 900.0
BURST_SECONDS = 15.0


@dataclass
class Stand:
    """The machine under test. `faults`: what was done to it, and how often."""

    project: Project
    landing: Path
    server: PrefectOnDatabase
    proxy: Proxy
    stack: ExitStack
    faults: Counter[str] = field(default_factory=Counter[str])

    def begin(self) -> None:
        self.api, self.up = self.stack.enter_context(serving(self.project, TUNELINE_LANDING=str(self.landing)))

    def land(self, number: int, lines: list[str]) -> None:
        partial = self.landing / f".{number}.partial"
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.rename(self.landing / f"arrival-{number:03}.jsonl")
        self.tell()

    def tell(self) -> None:
        """As a bucket's notifications do: at least once."""
        until(lambda: self.api.landed() or True, seconds=300)

    def hurt(self, name: str) -> None:
        if FAULTS[name](self):
            self.faults[name] += 1


def _killing(victims: Callable[[Path], Iterable[int]]) -> Callable[[Stand], bool]:
    def fault(stand: Stand) -> bool:
        found = list(victims(stand.project.folder))
        for pid in found:
            kill(pid)
        return bool(found)

    return fault


def _kill_up(stand: Stand) -> bool:
    kill(stand.up.pid)
    stand.up.wait()
    stand.begin()
    return True


def _restart_server(stand: Stand) -> bool:
    stand.server.again()
    return True


def _store_fails(stand: Stand) -> bool:
    """Every third request is told to slow down, for a while."""
    asked, slow = Counter[str](), refusal(503, "SlowDown")

    def spoil(_method: str, _path: str) -> Any:
        asked["all"] += 1
        return slow if asked["all"] % 3 == 0 else None

    stand.proxy.spoil = spoil
    time.sleep(BURST_SECONDS)
    stand.proxy.spoil = lambda _method, _path: None
    return True


FAULTS: dict[str, Callable[[Stand], bool]] = {
    "training killed": _killing(lambda folder: processes(folder, "tasks.train")),
    "stage killed": _killing(lambda folder: processes(folder, "flows.supervise")),
    "run killed": _killing(flows),
    "worker killed": _kill_up,
    "server killed": _restart_server,
    "store throttles": _store_fails,
}


class PrefectOnDatabase:
    """A Prefect server whose database outlives it."""

    def __init__(self, folder: Path, database: str | None, stack: ExitStack) -> None:
        self._folder, self._database, self.port = folder, database, free_ports(["api"])["api"]
        self._begin()
        stack.callback(self._end)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def again(self) -> None:
        self._process.kill()
        self._process.wait()
        self._begin()

    def _begin(self) -> None:
        own = {
            "PREFECT_HOME": str(self._folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database} if self._database else {}),
        }  # fmt: skip
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(self.port)],
                env={**os.environ, **own}, stdout=log, stderr=log,
            )  # fmt: skip
        until(lambda: Server(self.address).get("/health"), seconds=300)

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def postgresql(folder: Path) -> Generator[str | None]:
    """A cluster of its own on a loopback port; its address, or None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        yield None
        return
    programs, data, port = found[-1].parent, folder / "data", free_ports(["sql"])["sql"]
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    data.mkdir()
    if user:
        shutil.chown(data, "postgres")
        shutil.chown(folder, "postgres")
    run = [*user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run(
        [*user, programs / "initdb", "-D", data, "-A", "trust", "-U", "tuneline"], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(
        [*run, "-l", str(data / "log"), "-o", f"-p {port} -c listen_addresses=127.0.0.1 -k {data}", "start"], check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        subprocess.run(
            [*user, programs / "createdb", "-h", data, "-p", str(port), "-U", "tuneline", "prefect"], check=True
        )
        yield f"postgresql+asyncpg://tuneline@127.0.0.1:{port}/prefect"
    finally:
        subprocess.run([*run, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrivals", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=30.0, help="over which they land")
    parser.add_argument("--json", type=Path, help="file for the counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as stack:
        counts = soak(Path(folder), arguments.arrivals, arguments.minutes * 60, stack)
    for name, value in counts.items():
        print(f"{name:42} {value if not isinstance(value, dict) else ', '.join(f'{k} {v}' for k, v in value.items())}")
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    wrong = [name for name, value in WANTED.items() if counts[name] != value]
    for name in wrong:
        print(f"wrong: {name} is {counts[name]}, not {WANTED[name]}", file=sys.stderr)
    return 1 if wrong else 0


WANTED: Mapping[str, Any] = {
    "rows without an account": 0, "data versions trained twice": 0, "data versions without an outcome": 0,
    "champions": 1, "faults in the registry": 0, "processes left": 0, "slots held": 0, "runs that failed": 0,
    "files open more than at the start": 0,
}  # fmt: skip


def soak(folder: Path, arrivals: int, seconds: float, stack: ExitStack) -> dict[str, Any]:
    stand = stand_in(folder, stack)
    rows = [line for day in (1, 2, 3) for line in (ROOT / f"data/sample/day{day}.jsonl").read_text().splitlines()]
    chance, began = random.Random(SEED), time.monotonic()
    handles = _open_files(stand.up.pid)
    for number in range(arrivals):
        stand.land(number, rows[number * ROWS : (number + 1) * ROWS])
        if number:
            time.sleep(chance.uniform(0, 0.5) * seconds / arrivals)
            stand.hurt(chance.choice(list(FAULTS)))
        print(
            f"{time.monotonic() - began:6.0f} s: arrival {number + 1}, faults {sum(stand.faults.values())}", flush=True
        )
        time.sleep(max(0.0, began + (number + 1) * seconds / arrivals - time.monotonic()))
    until(lambda: _is_calm(stand), seconds=CALM_SECONDS)
    counts = _counts(stand, arrivals * ROWS) | {"minutes": round((time.monotonic() - began) / 60, 1)}
    counts["files open more than at the start"] = max(0, _open_files(stand.up.pid) - handles - SPARE_FILES)
    counts["slots held"] = until(lambda: [_slots(stand)] if _slots(stand) == 0 else None, seconds=120)[0]
    left = _family(stand)
    stand.up.terminate()
    stand.up.wait(timeout=60)
    counts["processes left"] = sum(alive(process) for process in left)
    return counts


SPARE_FILES = 8
"""Connections that come and go."""


def stand_in(folder: Path, stack: ExitStack) -> Stand:
    for name in ("s3", "prefect", "postgres", "landing", "base"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    store = stack.enter_context(s3(folder / "s3"))
    proxy, endpoint = stack.enter_context(proxied(store.endpoint))
    database = stack.enter_context(postgresql(folder / "postgres"))
    server = PrefectOnDatabase(folder / "prefect", database, stack)
    environment = {
        **store.environment(), "AWS_ENDPOINT_URL_S3": endpoint, "PREFECT_API_URL": f"{server.address}/api",
        "PREFECT_HOME": str(folder / "prefect"), "TUNELINE_CHECKPOINT_SECONDS": "1", "TUNELINE_REGISTRY": "s3://soak/registry",
    }  # fmt: skip
    sections: dict[str, dict[str, Any]] = {
        "publish": {"name": MODEL}, "quantize": {"formats": []}, "train": {"epochs": 3},
        "trigger": {"settle_minutes": 0.0, "rows": ROWS, "drift": None},
        "promote": {"margin": 1.0, "rows": {"train": 1, "test": 1}}, "evaluate": {"max_new_tokens": 12},
    }  # fmt: skip
    project = Project(folder / "project", tiny.make_base(folder / "base" / "tiny"), environment, **sections)
    stand = Stand(project, folder / "landing", server, proxy, stack)
    stand.begin()
    return stand


def _is_calm(stand: Stand) -> bool:
    """Nothing runs or is about to, and nothing new waits for it."""
    stand.tell()
    time.sleep(20)
    runs = stand.api.runs("ingest") + stand.api.runs("retrain")
    if any(run["state_type"] not in FINAL for run in runs):
        return False
    corpus = Corpus.open(stand.project.environment)
    return Claims(corpus, MODEL).news(Registry.open(stand.project.environment)) is None


def _counts(stand: Stand, landed: int) -> dict[str, Any]:
    environment = stand.project.environment
    corpus, registry = Corpus.open(environment), Registry.open(environment)
    data, claims = corpus.versions(), Claims(corpus, MODEL).all()
    versions, trained = registry.versions(MODEL), {claim.data for claim in claims}
    states = Counter(run["state"]["name"] for run in stand.api.runs("retrain") if run["state_type"] in FINAL)
    accounted = sum(version.total(name) for version in data for name in ("accepted", "duplicate", "quarantined"))
    learned = Counter(map(continuing.learned, versions))
    return {
        "rows landed": landed,
        "rows without an account": landed - accounted,
        "data versions": len(data),
        "data versions trained": len(trained),
        "data versions that came with a later one": sum(
            v.number not in trained and v.number < max(trained) for v in data
        ),
        "data versions trained twice": sum(count > 1 for count in learned.values()),
        "data versions without an outcome": sum(v.number > max(trained) for v in data),
        "versions in the registry": len(versions),
        "champions": int(registry.aliases.read(MODEL, "champion") is not None),
        "runs": dict(states),
        "runs that failed": states["Failed"] + states["Crashed"],
        "faults in the registry": len(verify(registry).faults),
        "faults injected": dict(stand.faults),
    }


def _slots(stand: Stand) -> int:
    return sum(limit["active_slots"] for limit in stand.api.post("/v2/concurrency_limits/filter", {}))


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _family(stand: Stand) -> list[Process]:
    """All that works in the project's folder."""
    return [identify(pid) for pid in processes(stand.project.folder)]


if __name__ == "__main__":
    sys.exit(main())
