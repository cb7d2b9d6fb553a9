"""Three versions in a registry of their own, and the way there through a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests import faulty_store
from tests.faulty_store import Proxy
from tests.registries import Service, publish


@pytest.fixture
def versions(registry: Registry, tmp_path: Path) -> list[Version]:
    return [publish(registry, tmp_path, number) for number in (1, 2, 3)]


@pytest.fixture
def proxied(s3: Service, registry: Registry) -> Iterator[tuple[Proxy, Registry, dict[str, str]]]:
    """The same registry through a proxy, and the environment in which others find that."""
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        environ = {**s3.environment(), "AWS_ENDPOINT_URL_S3": endpoint, "AWS_MAX_ATTEMPTS": "3"}
        yield proxy, Registry(Store.open(registry.store.url, environ)), environ
