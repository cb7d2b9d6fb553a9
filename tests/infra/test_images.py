"""The Dockerfile and the compose file by their own tools: hadolint, and Docker Compose's parser."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra import credentials, flavour, seaweedfs
from infra.policies import ROLES
from tests.project import BIN, ROOT

DOCKERFILE = ROOT / "infra" / "Dockerfile"
COMPOSE = ROOT / "infra" / "compose.yaml"
EXAMPLE = (ROOT / "infra" / ".env.example").read_text()
ONCE = ("buckets", "checkout")
PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Docker Compose makes of the file, with passwords of its own."""
    env = tmp_path_factory.mktemp("env") / ".env"
    subprocess.run([sys.executable, "-m", "infra.credentials", "--to", env], cwd=ROOT, check=True)
    command = [
        BIN / "docker-compose",
        "--env-file",
        env,
        "-f",
        COMPOSE,
        "--profile",
        "tools",
        "config",
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=env.parent)
    assert not done.stderr  # it warns of variables that are not set
    return json.loads(done.stdout)["services"]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_pinned_holds_no_secret_and_does_not_run_as_root() -> None:
    text = DOCKERFILE.read_text()
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    assert PINNED.search(base) and set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert not re.search(r"(?i)secret|password|token", text)
    installs = re.findall(r"pip install [^\n&]*", text)
    assert len(installs) == 4 and all("-c infra/requirements.lock" in each or "--no-deps" in each for each in installs)


def test_the_build_sees_what_the_dockerfile_copies_and_no_more() -> None:
    words = [
        line.split()
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
    ]
    copied = {source for line in words for source in line[1:-1]}
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert shown == copied - {"infra/flavour.py"}  # which is among infra/*.py
    for source in copied:
        assert list(ROOT.glob(source)), source


def test_a_torch_of_the_other_flavour_is_refused() -> None:
    assert flavour.problem("cpu", None) is None and flavour.problem("cuda", "13.0") is None
    assert "set TORCH_INDEX" in (flavour.problem("cpu", "13.0") or "")
    assert "built for cpu" in (flavour.problem("cuda", None) or "")
    assert "cpu or cuda" in (flavour.problem("gpu", None) or "")


def test_services_are_confined_and_on_loopback_alone(services: dict[str, Any]) -> None:
    """Each that stays has a health check; the worker's is the image's own."""
    assert {*services} == {
        "postgres", "prefect", "s3", "buckets", "checkout", "worker", "ingest", "gc", "models",
    }  # fmt: skip
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service and "network_mode" not in service, name
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        restart = "no" if "profiles" in service else "on-failure" if name in ONCE else "unless-stopped"
        assert service.get("restart") == restart, name
        assert (restart == "unless-stopped" and name != "worker") == ("test" in service.get("healthcheck", {})), name
        binds = [volume for volume in service.get("volumes", []) if volume["type"] == "bind"]
        assert all(volume.get("read_only") for volume in binds), name
    assert PINNED.search(services["postgres"]["image"])


def test_each_service_has_the_secrets_of_its_own_role(services: dict[str, Any]) -> None:
    role = {"worker": "worker", "ingest": "ingester", "gc": "collector", "models": "reader", "buckets": "admin"}
    environments = {name: service.get("environment", {}) for name, service in services.items()}
    secrets = {name: environments["s3"][seaweedfs.variable(name)] for name in ["admin", *(role.name for role in ROLES)]}
    assert len({*secrets.values()}) == len(ROLES) + 1
    for service, wanted in role.items():
        found = environments[service]
        assert found["AWS_ACCESS_KEY_ID"] == seaweedfs.access_key(wanted)
        assert found["AWS_SECRET_ACCESS_KEY"] == secrets[wanted]
        assert {name for name, secret in secrets.items() if secret in found.values()} == {wanted}
    assert "S3_ADMIN_SECRET" not in environments["prefect"] and "POSTGRES_PASSWORD" not in environments["worker"]


def test_the_example_has_no_secret_and_the_real_file_is_not_kept(tmp_path: Path) -> None:
    said = dict(line.split("=", 1) for line in EXAMPLE.splitlines() if "=" in line and not line.startswith("#"))
    assert {value for name, value in said.items() if name.endswith(("_SECRET", "_PASSWORD"))} == {""}
    assert {seaweedfs.variable(name) for name in ["admin", *(role.name for role in ROLES)]} <= said.keys()
    ignored = subprocess.run(["git", "check-ignore", "infra/.env"], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 0
    to = tmp_path / ".env"
    make = [sys.executable, "-m", "infra.credentials", "--to", to]
    subprocess.run(make, cwd=ROOT, check=True)
    first = to.read_text()
    assert stat.S_IMODE(to.stat().st_mode) == 0o600 and credentials.filled(first) == first
    again = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and "is there already" in again.stderr and to.read_text() == first


def test_identities_need_every_secret(tmp_path: Path) -> None:
    make = [sys.executable, "-m", "infra.seaweedfs", "--to", tmp_path / "identities.json"]
    done = subprocess.run(
        make,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"TUNELINE_REGISTRY": "s3://a/b", "TUNELINE_LANDING": "s3://c"},
    )
    assert done.returncode == 2 and "TUNELINE_LANDING is 's3://c': set it to s3://BUCKET/PREFIX" in done.stderr
    assert not (tmp_path / "identities.json").exists()
