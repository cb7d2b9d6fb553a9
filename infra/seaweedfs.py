"""SeaweedFS with the same roles: the identities that `weed -s3.config` reads, each with its policy attached.

python -m infra.seaweedfs --to FILE     # secrets from the environment: S3_ADMIN_SECRET, S3_READER_SECRET, ...
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.policies import ROLES, Site, policy

ADMIN = "admin"
"""Makes buckets and backups; no command of tuneline needs it."""


class Missing(Exception):
    """A secret is not in the environment."""


def access_key(role: str) -> str:
    """The public half of a role's credentials."""
    return f"tuneline-{role}"


def variable(role: str) -> str:
    """Where its secret half is."""
    return f"S3_{role.upper()}_SECRET"


def site(environ: Mapping[str, str]) -> Site:
    """As `TUNELINE_REGISTRY` and `TUNELINE_LANDING` say, s3://BUCKET/PREFIX each."""
    registry, landing = (_split(environ, name) for name in ("TUNELINE_REGISTRY", "TUNELINE_LANDING"))
    return Site(*registry, *landing)


def _split(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    bucket, _, prefix = _wanted(environ, name).removeprefix("s3://").strip("/").partition("/")
    if not prefix:
        raise Missing(f"{name} is {environ[name]!r}: set it to s3://BUCKET/PREFIX, with a prefix")
    return bucket, prefix


def identities(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's content. Missing: a variable is not set."""
    where = site(environ)
    owner = {"name": ADMIN, "credentials": [_pair(environ, ADMIN)], "actions": ["Admin", "Read", "Write", "List"]}
    others = [
        {"name": role.name, "credentials": [_pair(environ, role.name)], "policyNames": [role.name]} for role in ROLES
    ]
    documents = [{"name": role.name, "content": json.dumps(policy(role, where))} for role in ROLES]
    return {"identities": [owner, *others], "policies": documents}


def _pair(environ: Mapping[str, str], role: str) -> dict[str, str]:
    return {"accessKey": access_key(role), "secretKey": _wanted(environ, variable(role))}


def _wanted(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    raise Missing(f"{name} is not set: python -m infra.credentials writes infra/.env, which has it")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the identities that SeaweedFS reads.")
    parser.add_argument("--to", type=Path, required=True, help="file to write")
    to: Path = parser.parse_args().to
    try:
        text = json.dumps(identities(os.environ), indent=1)
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
