"""Small versions for tests of the registry, made of a few files and a record as `publish` writes it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import boto3

from tasks.storage.model_version import Version
from tasks.storage.registry import Registry
from tasks.storage.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Service(Protocol):
    """What tests ask of the session's S3 server."""

    def environment(self) -> Mapping[str, str]: ...


def alone(root: Store) -> Registry:
    """An empty registry below a prefix of its own."""
    return Registry(replace(root, prefix=uuid.uuid4().hex))


def record(number: int) -> dict[str, Any]:
    """What `tuneline models` prints of a version."""
    return {
        "data": {"version": f"v{number}", "digest": f"{number}" * 64, "rows": 100 * number},
        "base": {"digest": "b" * 64, "ref": "hub:org/base"},
        "git": {"commit": f"{number}" * 40, "changes": None},
        "params": {"train": {"method": "lora", "rank": 8 * number}, "evaluate": {"metrics": ["exact_match"]}},
        "metrics": {"merged": {"exact_match": number / 10}},
    }


def publish(registry: Registry, folder: Path, number: int, name: str = "m", **more: bytes) -> Version:
    """A version that shares `shared` with all others and has `own` to itself."""
    files = laid(folder / uuid.uuid4().hex, {"merged/shared": b"s", "merged/own": b"%d" % number, **more})
    return registry.publish(name, files, f"work {number}", record(number), NOW, "ada").version


def laid(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


def begin_upload(environ: Mapping[str, str], store: Store, key: str) -> None:
    """A multipart upload that nobody ends."""
    client = boto3.client(
        "s3", endpoint_url=environ.get("AWS_ENDPOINT_URL_S3") or environ["AWS_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    client.create_multipart_upload(Bucket=store.bucket, Key=f"{store.prefix}/{key}")
