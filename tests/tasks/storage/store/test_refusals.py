"""What the user reads when a store refuses."""

from __future__ import annotations

import os
import socket

import pytest

from tasks.core.errors import (
    IntegrityError,
    ResourceError,
    StorageError,
    TunelineError,
)
from tasks.storage import refusals
from tasks.storage.store import Store
from tests.faulty_store import Proxy, refusal
from tests.tasks.storage.store.contents import CANARY, complaint


@pytest.mark.parametrize("changed", [{"AWS_SECRET_ACCESS_KEY": CANARY}, {"AWS_ACCESS_KEY_ID": "nobody"}])
def test_wrong_credentials(environ: dict[str, str], store: Store, changed: dict[str, str]) -> None:
    said = complaint(Store.open(store.url, environ | changed))
    assert "does not accept the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said
    assert f"{store.url}/k at {store.endpoint}" in said
    denied = Store.open(store.url, environ | changed)
    with pytest.raises(StorageError, match="access denied, without a reason"):
        denied.head("k")
    with pytest.raises(StorageError, match="does not accept the credentials"):
        denied.ensure_bucket()


def test_no_and_half_credentials(environ: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    del environ["AWS_ACCESS_KEY_ID"]
    with pytest.raises(StorageError, match="no usable credentials: set AWS_ACCESS_KEY_ID"):
        Store.open(store.url, environ)
    del environ["AWS_SECRET_ACCESS_KEY"]
    assert "no usable credentials: set AWS_ACCESS_KEY_ID" in complaint(Store.open(store.url, environ))
    with pytest.raises(StorageError, match="mend AWS_PROFILE"):
        Store.open(store.url, environ | {"AWS_PROFILE": "nobody"})


def test_missing_bucket(environ: dict[str, str]) -> None:
    said = complaint(Store.open("s3://no-such-bucket/p", environ))
    assert "s3://no-such-bucket/p/k" in said
    assert "there is no such bucket: create it, or set TUNELINE_REGISTRY" in said


def test_nothing_listens(environ: dict[str, str], store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        secret = environ | {"AWS_ENDPOINT_URL": f"http://user:{CANARY}@{address}", "AWS_MAX_ATTEMPTS": "1"}
        said = complaint(Store.open(store.url, secret))
    assert f"at http://{address}: nothing answers there: check AWS_ENDPOINT_URL" in said


@pytest.mark.parametrize("endpoint", ["nonsense", f"{CANARY}@host", "http://"])
def test_malformed_endpoint(environ: dict[str, str], store: Store, endpoint: str) -> None:
    with pytest.raises(StorageError, match="check AWS_ENDPOINT_URL") as caught:
        Store.open(store.url, environ | {"AWS_ENDPOINT_URL": endpoint}).get("k")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("attempts", ["0", "many", "-1", "²"])
def test_malformed_attempts(environ: dict[str, str], store: Store, attempts: str) -> None:
    with pytest.raises(StorageError, match="AWS_MAX_ATTEMPTS is"):
        Store.open(store.url, environ | {"AWS_MAX_ATTEMPTS": attempts})


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", StorageError, "access denied: the store knows the credentials"),
        (400, "ExpiredToken", StorageError, "AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", StorageError, "clock differs"),
        (400, "AuthorizationHeaderMalformed", StorageError, "set AWS_REGION"),
        (400, "XMinioStorageFull", ResourceError, "the store is full"),
        (501, "NotImplemented", StorageError, "tuneline doctor"),
        (418, "Teapot", StorageError, "'short and stout' (Teapot)"),
        (400, "BadDigest", IntegrityError, "changed on their way"),
    ],
)
def test_refusals_are_told_apart(
    behind: Store, proxy: Proxy, status: int, code: str, kind: type[TunelineError], words: str
) -> None:
    proxy.spoil = lambda _method, _path: refusal(status, code, "short and stout")
    said = complaint(behind, kind)
    assert words in said
    assert code in said
    assert f"{behind.url}/k at {behind.endpoint}" in said


def test_no_code_means_two_things() -> None:
    codes = [code for row in refusals.REFUSALS for code in row.codes]
    assert len(codes) == len(set(codes)) > 50
