"""A store of its own for each test, directly and through a proxy that misbehaves on purpose."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tasks.storage.store import Store
from tests import faulty_store
from tests.faulty_store import Proxy
from tests.registries import Service, begin_upload


@pytest.fixture
def environ(s3: Service) -> dict[str, str]:
    """With the endpoint under its general name, while `root` has it under that of S3 alone."""
    found = dict(s3.environment())
    endpoint = found.pop("AWS_ENDPOINT_URL_S3")
    return found | {"AWS_ENDPOINT_URL": endpoint, "AWS_MAX_ATTEMPTS": "3"}


@pytest.fixture
def store(root: Store) -> Store:
    """A prefix of its own for each test; the client is shared, as making one takes longer than most tests."""
    return replace(root, prefix=uuid.uuid4().hex)


@pytest.fixture
def begin(environ: dict[str, str]) -> Callable[[Store, str], None]:
    """Begins a multipart upload that nobody ends."""
    return lambda store, key: begin_upload(environ, store, key)


@pytest.fixture
def proxy(environ: dict[str, str]) -> Iterator[Proxy]:
    with faulty_store.proxied(environ["AWS_ENDPOINT_URL"]) as (proxy, environ["AWS_ENDPOINT_URL"]):
        yield proxy


@pytest.fixture
def behind(proxy: Proxy, environ: dict[str, str], store: Store) -> Store:
    """The same objects as `store`, through the proxy."""
    assert proxy.upstream
    return Store.open(store.url, environ)
