"""A store and an empty registry in the session's S3 server."""

from __future__ import annotations

import pytest

from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests.registries import Service, alone


@pytest.fixture(scope="module")
def root(s3: Service, bucket: str) -> Store:
    return Store.open(f"s3://{bucket}", s3.environment())


@pytest.fixture
def registry(root: Store) -> Registry:
    """An empty one for each test; the client is shared, as making one takes longer than most tests."""
    return alone(root)
