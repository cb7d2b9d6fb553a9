"""A store and an empty registry in the session's S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from mypy_boto3_s3.client import S3Client

from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests import faulty_store
from tests.faulty_store import Proxy
from tests.large_blob import DATA, KEY, Open
from tests.registries import Service, alone, laid


@pytest.fixture(scope="module")
def root(s3: Service, bucket: str) -> Store:
    return Store.open(f"s3://{bucket}", s3.environment())


@pytest.fixture
def registry(root: Store) -> Registry:
    """An empty one for each test; the client is shared, as making one takes longer than most tests."""
    return alone(root)


@pytest.fixture
def model(tmp_path: Path) -> dict[str, Path]:
    """A small version: two parts, an empty file, two equal files, and one beside the parts."""
    contents = {
        "card.md": b"# card",
        "merged/config.json": b"{}",
        "merged/deep/weights.bin": os.urandom(300_000),
        "merged/empty": b"",
        "nf4/config.json": b"{}",
    }
    return laid(tmp_path / "model", contents)


@pytest.fixture
def somebody(registry: Registry, s3: Service) -> Open:
    environ = s3.environment()
    client: S3Client = boto3.client(
        "s3", endpoint_url=environ["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    return Open(client, registry.store.bucket, f"{registry.store.prefix}/{KEY}")


@pytest.fixture
def proxy(s3: Service) -> Iterator[tuple[Proxy, dict[str, str]]]:
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        yield proxy, {**s3.environment(), "AWS_ENDPOINT_URL_S3": endpoint, "AWS_MAX_ATTEMPTS": "2"}


@pytest.fixture
def behind(registry: Registry, proxy: tuple[Proxy, dict[str, str]]) -> Registry:
    """The same registry as `registry`, through the proxy."""
    return Registry(Store.open(registry.store.url, proxy[1]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(DATA)
    return tmp_path / "weights"
