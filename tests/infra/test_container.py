"""What the image's containers would run, run: the Dockerfile's own commands make an environment, the compose file's own
commands its store, its Prefect server and its worker."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import seaweedfs
from infra.policies import ROLES
from tasks.storage.corpus import Corpus
from tasks.storage.store import Store
from tests.project import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

IMAGE = "/opt/tuneline"
SERVICES = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
PORTS = ("4200", "8333", "8080")
INSIDE = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port.grpc",
)  # fmt: skip
"""Weed's ports that a container has to itself."""
WAIT_SECONDS = 240


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies in /opt/tuneline of the image: the first stage as it stands, and the second one's copy."""
    root = tmp_path_factory.mktemp("image")
    source, made = root / "src", root / "tuneline"
    source.mkdir()
    text = (ROOT / "infra" / "Dockerfile").read_text().replace("\\\n", " ")
    build = re.split(r"^FROM .*$", text, flags=re.MULTILINE)[1]
    clean = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = {**clean, "FLAVOUR": "cpu", "TORCH_INDEX": ""}
    runs = 0
    for line in build.splitlines():
        word, _, rest = line.replace(IMAGE, str(made)).partition(" ")
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                _copy(ROOT / name, source / target)
        elif word == "RUN":
            done = subprocess.run(["sh", "-c", rest], cwd=source, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{rest}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            runs += 1
        elif word == "ENV" and rest.startswith("PATH="):
            environment["PATH"] = rest.removeprefix("PATH=").replace("$PATH", environment["PATH"])
    assert runs == 5
    shutil.copytree(ROOT / "infra", made / "infra", ignore=lambda _, names: [n for n in names if not n.endswith(".py")])
    return made


def _copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)


class Machine:
    """Compose's services as processes: each in a folder for its volumes, with the environment that the file gives it."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image, self.folder = image, folder
        free = _free(len(PORTS) + len(INSIDE))
        self.ports = dict(zip(PORTS, free, strict=False))
        self.inside = " ".join(f"-{flag}={port}" for flag, port in zip(INSIDE, free[len(PORTS) :], strict=True))
        secrets = {seaweedfs.variable(role): f"secret-{role}" for role in ["admin", *(role.name for role in ROLES)]}
        self.settings = {
            **secrets, "TUNELINE_REGISTRY": "s3://tuneline/registry", "TUNELINE_LANDING": "s3://tuneline-landing/rows",
            "PREFECT_PASSWORD": "prefect-password", "POSTGRES_PASSWORD": "unused",
        }  # fmt: skip

    def here(self, text: str, name: str) -> str:
        """The container's addresses and folders, as they are on this machine."""
        text = re.sub(r"\$\{(\w+)[^}]*\}", lambda match: self.settings[match[1]], text)
        text = re.sub(r"(?<![\w./])/(data|checkout|tmp|source)\b", lambda match: str(self.place(match[1], name)), text)
        text = re.sub(r"//(s3|prefect)(?=:)", "//127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        for port, ours in self.ports.items():
            text = re.sub(rf"(?<![\d.]){port}\b", str(ours), text)
        text = text.replace("weed server", f"weed server {self.inside}")
        return text.replace(IMAGE, str(self.image))

    def place(self, volume: str, name: str) -> Path:
        """Every service has the same checkout, and data and scratch of its own."""
        if volume == "source":
            return ROOT
        place = self.folder / (volume if volume == "checkout" else f"{name}-{volume}")
        place.mkdir(exist_ok=True)
        return place

    def environment(self, name: str) -> dict[str, str]:
        given = {key: self.here(str(value), name) for key, value in SERVICES[name].get("environment", {}).items()}
        (home := self.folder / f"{name}-home").mkdir(exist_ok=True)
        return {
            "PATH": f"{self.image}/venv/bin{os.pathsep}{os.environ['PATH']}", "HOME": str(home), "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_RUNNER_SERVER_ENABLE": "true",
            "PREFECT_RUNNER_SERVER_PORT": str(self.ports["8080"]), "DVC_SITE_CACHE_DIR": str(home / "dvc"), **given,
        }  # fmt: skip

    def start(self, name: str, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        words = [self.here(str(word), name) for word in command or SERVICES[name]["command"]]
        cwd = self.here(SERVICES[name].get("working_dir", "/checkout"), name)
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                words, cwd=cwd, env=self.environment(name), stdout=log, stderr=log, start_new_session=True
            )

    @contextmanager
    def running(self, name: str, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Generator[None]:
        """Until its own health check succeeds; then for as long as the block lasts."""
        change(SERVICES[name])
        process = self.start(name)
        check = SERVICES[name].get("healthcheck", {}).get("test") or [
            "CMD", "python", "/opt/tuneline/infra/health.py", "http://127.0.0.1:8080/health",
        ]  # fmt: skip
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while self.start(name, check[1:]).wait() != 0:
                assert process.poll() is None and time.monotonic() < deadline, self.log(name)
                time.sleep(1)
            yield
        finally:
            _end(process)

    def once(self, name: str) -> str:
        assert self.start(name).wait(300) == 0, self.log(name)
        return self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def prefect(self, path: str, body: object) -> Any:
        password = base64.b64encode(f"admin:{self.settings['PREFECT_PASSWORD']}".encode()).decode()
        headers = {"Authorization": f"Basic {password}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.ports['4200']}/api{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
            return json.loads(answer.read())


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def on_sqlite(service: dict[str, Any]) -> None:
    """No container, so no PostgreSQL: the server's own file in its volume."""
    del service["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]


def test_the_image_serves_the_deployment_with_the_roles_of_the_compose_file(image: Path, tmp_path: Path) -> None:
    machine = Machine(image, tmp_path)
    look = [image / "venv/bin/python", "-c", "import tasks, torch, cyllama; print(tasks.__file__)"]
    environment = machine.environment("worker")
    found = subprocess.run(look, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert found.stdout.startswith(str(image))
    rows = (ROOT / "data" / "sample" / "day1.jsonl").read_bytes()
    with machine.running("s3"), machine.running("prefect", on_sqlite):
        for name in ("buckets", "checkout", "checkout"):  # the second time there is nothing to do
            machine.once(name)
        with machine.running("worker"):
            names = {each["name"] for each in machine.prefect("/deployments/filter", {})}
            ours = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
            assert names == {each["name"] for each in ours}, machine.log("worker")
        assert "Traceback" not in machine.log("worker")
        settings = machine.environment("buckets")
        Store.open(settings["TUNELINE_LANDING"], settings).put("day1.jsonl", rows)
        machine.once("ingest")
        assert [version.number for version in Corpus.open(machine.environment("models")).versions()] == [1]
        machine.once("models")
        machine.once("gc")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            machine.settings["PREFECT_PASSWORD"] = "another"
            machine.prefect("/deployments/filter", {})
