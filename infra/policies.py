"""Who may do what with the store: one description of the roles, and the IAM policies that are made of it.

    python infra/policies.py --out infra/terraform/policies     # what Terraform attaches; a test says that they are these

Keys are those of docs/registry.md and of tasks/storage/corpus.py, whose corpus lies below `data/` of the same prefix.
A role is allowed what its commands do, and denied every write and removal elsewhere in the registry, so that what an account
grants besides makes it no stronger. Everybody may list the whole bucket: S3 answers a read of an object that is
not there with "access denied" to those who may not, and the registry could not tell "none yet" from "not for you".

`bucket()` holds for everybody, an administrator too: what is written once is never written again, which S3 checks by the
condition keys of conditional writes. SeaweedFS has no such keys, so there it is the writers alone who keep to that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BLOBS = "blobs/*"
VERSIONS = "models/*/versions/*"
ALIASES = "models/*/aliases/*"
VERDICTS = "models/*/verdicts/*"
SIGNATURES = "models/*/signatures/*"
PINS = "models/*/pins/*"
LOG = "models/*/log/*"
LEASES = "leases/*"
PROBES = "probe/*"
FORMAT = "registry.json"
MARKER = "gc.json"
DATA_VERSIONS = "data/versions/*"
DATA_REPORTS = "data/reports/*"
DATA_BYTES = "data/dvc/*"
DATA_PROBES = "data/probe/*"
CLAIMS = "data/trained/*"

PLACES = (
    FORMAT, MARKER, BLOBS, VERSIONS, ALIASES, VERDICTS, SIGNATURES, PINS, LOG, LEASES, PROBES, DATA_VERSIONS,
    DATA_REPORTS, DATA_BYTES, DATA_PROBES, CLAIMS,
)  # fmt: skip
"""Every place of a registry."""

ONCE = (FORMAT, VERSIONS, VERDICTS, SIGNATURES, PINS, LOG, LEASES, DATA_VERSIONS, CLAIMS)
"""Where an object is created and never replaced."""

MOVING = (ALIASES, MARKER)
"""Where an object is replaced, by whoever has read what it replaces."""

KEPT = (LOG, VERDICTS, SIGNATURES, DATA_VERSIONS, CLAIMS, FORMAT)
"""What nobody removes."""

SETTINGS = ("s3:DeleteBucket", "s3:PutBucket*", "s3:DeleteBucketPolicy", "s3:PutLifecycleConfiguration",
            "s3:PutEncryptionConfiguration", "s3:BypassGovernanceRetention", "s3:DeleteObjectVersion")  # fmt: skip
LIMIT = 10_240
"""Characters that the inline policies of an AWS role may have altogether, white space not counted."""

Statement = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """Where the registry, the landing files and their queue are."""

    registry_bucket: str
    registry_prefix: str
    landing_bucket: str
    landing_prefix: str
    landing_queue_arn: str | None = None
    partition: str = "aws"

    def bucket(self, name: str) -> str:
        return f"arn:{self.partition}:s3:::{name}"

    def keys(self, places: Iterable[str]) -> list[str]:
        return [f"{self.bucket(self.registry_bucket)}/{self.registry_prefix}/{place}" for place in places]


TERRAFORM = Site(
    "${registry_bucket}", "${registry_prefix}", "${landing_bucket}", "${landing_prefix}", "${landing_queue_arn}",
    "${partition}",
)  # fmt: skip
"""Terraform's `templatefile` fills these in."""


@dataclass(frozen=True)
class Role:
    """One job. `uploads`: where it sends files so large that they go in parts; `lands`: it reads landing files."""

    name: str
    purpose: str
    reads: tuple[str, ...] = ("*",)
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    uploads: tuple[str, ...] = ()
    lands: bool = False

    def __or__(self, other: Role) -> Role:
        """Who does both."""
        return replace(
            self,
            reads=_union(self.reads, other.reads),
            writes=_union(self.writes, other.writes),
            deletes=_union(self.deletes, other.deletes),
            uploads=_union(self.uploads, other.uploads),
            lands=self.lands or other.lands,
        )


def _union(*places: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place for each in places for place in each))


READER = Role("reader", "list, show, pull, verify, export, data status")
TRAINER = Role(
    "trainer", "read the corpus, publish and sign versions, record verdicts; moves no alias",
    writes=(FORMAT, BLOBS, VERSIONS, SIGNATURES, VERDICTS, LOG, LEASES, PROBES, CLAIMS), deletes=(LEASES, PROBES),
    uploads=(BLOBS,),
)  # fmt: skip
PROMOTER = Role(
    "promoter", "judge, promote, roll back, pin; publishes nothing",
    writes=(ALIASES, VERDICTS, PINS, LOG, LEASES, PROBES), deletes=(PINS, LEASES, PROBES),
)  # fmt: skip
COLLECTOR = Role(
    "collector", "gc: remove old versions, unnamed blobs, what killed commands left",
    writes=(MARKER, LOG), deletes=(BLOBS, VERSIONS, LEASES, PROBES, MARKER), uploads=(BLOBS,),
)  # fmt: skip
INGESTER = Role(
    "ingester", "landing files into data versions",
    reads=("data/*",), writes=(DATA_VERSIONS, DATA_REPORTS, DATA_BYTES, DATA_PROBES), deletes=(DATA_PROBES,),
    uploads=(DATA_REPORTS, DATA_BYTES), lands=True,
)  # fmt: skip
WORKER = replace(TRAINER | PROMOTER, name="worker", purpose="a whole run: train, publish, judge, promote")
ROLES = (READER, TRAINER, PROMOTER, COLLECTOR, INGESTER, WORKER)


def policy(role: Role, site: Site) -> Document:
    """The role's IAM policy."""
    found = [
        _allow("List", ["s3:ListBucket"], [site.bucket(site.registry_bucket)]),
        _allow("Read", ["s3:GetObject"], site.keys(role.reads)),
        _allow("Write", ["s3:PutObject"], site.keys(role.writes)),
        _allow("Delete", ["s3:DeleteObject"], site.keys(role.deletes)),
        *(_uploads(role, site) if role.uploads else ()),
        *(_landing(site) if role.lands else ()),
        _deny("WriteNowhereElse", ["s3:PutObject"], site.keys(_others(role.writes))),
        _deny("DeleteNothingElse", ["s3:DeleteObject"], site.keys(_others(role.deletes))),
        _deny("NoSettings", list(SETTINGS), [site.bucket(site.registry_bucket), *site.keys(["*"])]),
    ]
    return _document(found)


def bucket(site: Site, collector: str) -> Document:
    """The registry's bucket policy on AWS: it allows nothing. `collector`: the ARN of the one role that removes versions."""
    everywhere = [site.bucket(site.registry_bucket), f"{site.bucket(site.registry_bucket)}/*"]
    found = [
        _deny("EncryptedOnly", ["s3:*"], everywhere, {"Bool": {"aws:SecureTransport": "false"}}),
        _deny("WrittenOnce", ["s3:PutObject"], site.keys(ONCE), {"Null": {"s3:if-none-match": "true"}}),
        _deny(
            "MovedFromWhatWasRead", ["s3:PutObject"], site.keys(MOVING),
            {"Null": {"s3:if-none-match": "true", "s3:if-match": "true"}},
        ),
        _deny("Kept", ["s3:DeleteObject"], site.keys(KEPT)),
        _deny(
            "VersionsAndBlobsGoByCollection", ["s3:DeleteObject"], site.keys([VERSIONS, BLOBS]),
            {"ArnNotEquals": {"aws:PrincipalArn": collector}},
        ),
    ]  # fmt: skip
    return _document([{**statement, "Principal": "*"} for statement in found])


def _uploads(role: Role, site: Site) -> tuple[Statement, ...]:
    """Parts that were never put together: seen in the whole bucket, dropped where the role may send."""
    return (
        _allow("ListUploads", ["s3:ListBucketMultipartUploads"], [site.bucket(site.registry_bucket)]),
        _allow("AbortUploads", ["s3:AbortMultipartUpload"], site.keys(role.uploads)),
    )


def _landing(site: Site) -> list[Statement]:
    landing = site.bucket(site.landing_bucket)
    found = [
        _allow("ListLanding", ["s3:ListBucket"], [landing]),
        _allow("ReadLanding", ["s3:GetObject"], [f"{landing}/{site.landing_prefix}/*"]),
        _deny("LandingStays", ["s3:PutObject", "s3:DeleteObject"], [f"{landing}/{site.landing_prefix}/*"]),
    ]
    if site.landing_queue_arn:
        actions = ["ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes", "GetQueueUrl"]
        found.append(_allow("Arrivals", [f"sqs:{action}" for action in actions], [site.landing_queue_arn]))
    return found


def _others(places: tuple[str, ...]) -> list[str]:
    return [place for place in PLACES if place not in places]


def _allow(sid: str, actions: list[str], resources: list[str]) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}


def _deny(sid: str, actions: list[str], resources: list[str], condition: Statement | None = None) -> Statement:
    statement: Statement = {"Sid": sid, "Effect": "Deny", "Action": actions, "Resource": resources}
    return {**statement, "Condition": condition} if condition else statement


def _document(statements: Iterable[Statement]) -> Document:
    return {"Version": "2012-10-17", "Statement": [each for each in statements if each["Resource"]]}


def text(document: Document) -> str:
    """As it is stored."""
    return json.dumps(document, indent=1) + "\n"


def files() -> dict[str, str]:
    """What lies in infra/terraform/policies: name -> text. Law: the same on every machine."""
    documents = {role.name: policy(role, TERRAFORM) for role in ROLES}
    documents["registry-bucket"] = bucket(TERRAFORM, "${collector_role_arn}")
    return {f"{name}.json": text(document) for name, document in documents.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the IAM policies of every role.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (out / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
