"""A SeaweedFS whose identities are the roles of infra/policies.py, and the environment of each."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra import policies, seaweedfs
from tasks.storage import embedded
from tasks.storage.registry import Registry
from tasks.storage.store import Store

REGISTRY = "s3://models/line/registry"
LANDING = "s3://arrivals/rows"
SECRETS = {
    seaweedfs.variable(name): f"secret of {name}" for name in (seaweedfs.ADMIN, *(r.name for r in policies.ROLES))
}


@dataclass(frozen=True)
class Roles:
    """The store, seen by whoever has a role's credentials; `environ(ADMIN)` may do everything."""

    endpoint: str

    def environ(self, role: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": seaweedfs.access_key(role),
            "AWS_SECRET_ACCESS_KEY": SECRETS[seaweedfs.variable(role)],
            "AWS_DEFAULT_REGION": "us-east-1",
            "TUNELINE_REGISTRY": REGISTRY,
        }

    def registry(self, role: str) -> Registry:
        return Registry.open(self.environ(role))

    def store(self, role: str) -> Store:
        return self.registry(role).store

    def landing(self, role: str) -> Store:
        return Store.open(LANDING, self.environ(role))


@contextmanager
def serving(home: Path) -> Generator[Roles]:
    """With both buckets, as Terraform or the compose file's `buckets` makes them."""
    folder = home / "s3"
    folder.mkdir(parents=True)
    settings = {**SECRETS, "TUNELINE_REGISTRY": REGISTRY, "TUNELINE_LANDING": LANDING}
    (folder / embedded.IDENTITIES).write_text(json.dumps(seaweedfs.identities(settings)))
    with embedded.s3(home) as s3:
        roles = Roles(s3.endpoint)
        roles.store(seaweedfs.ADMIN).ensure_bucket()
        roles.landing(seaweedfs.ADMIN).ensure_bucket()
        yield roles
