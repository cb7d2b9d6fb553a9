"""The configuration parses, refers only to what it declares, and protects every bucket.

`terraform validate` needs the AWS provider, which no package has: what it would find of names is looked for here.
"""

from __future__ import annotations

import re
from typing import Any

import hcl2
import pytest

from infra import policies
from tests.project import ROOT

FOLDER = ROOT / "infra" / "terraform"
FILES = sorted(FOLDER.glob("*.tf"))
TEXT = "\n".join(re.sub(r"(^|\s)#.*", "", file.read_text()) for file in FILES)


def blocks(kind: str) -> list[tuple[str, Any]]:
    """Address and body of every block of a kind: `aws_s3_bucket.registry`, {...}."""
    labels = {"resource": 2, "data": 2, "variable": 1, "output": 1}.get(kind, 0)
    bodies = [block for file in FILES for block in hcl2.loads(file.read_text()).get(kind, [])]
    return [_labelled(body, labels) for body in bodies]


def _labelled(body: Any, labels: int) -> tuple[str, Any]:
    names: list[str] = []
    for _ in range(labels):
        name, body = next(iter(body.items()))
        names.append(name.strip('"'))
    return ".".join(names), body


def test_every_file_parses() -> None:
    assert [file.name for file in FILES] == [
        "buckets.tf", "main.tf", "outputs.tf", "queue.tf", "roles.tf", "variables.tf",
    ]  # fmt: skip
    assert all(hcl2.loads(file.read_text()) for file in FILES)


def test_what_is_referred_to_is_declared() -> None:
    declared = {
        "var": {address for address, _ in blocks("variable")},
        "local": {name for _, block in blocks("locals") for name in block if not name.startswith("__")},
        "data": {address for address, _ in blocks("data")},
        "": {address for address, _ in blocks("resource")},
    }
    assert {len(names) > 2 for names in declared.values()} == {True}
    used = {
        "var": {*re.findall(r"\bvar\.(\w+)", TEXT)},
        "local": {*re.findall(r"\blocal\.(\w+)", TEXT)},
        "data": {*re.findall(r"\bdata\.(\w+\.\w+)", TEXT)},
        "": {*re.findall(r"(?<![\w.])(aws_\w+\.\w+)", re.sub(r"\bdata\.\w+\.\w+", "", TEXT))},
    }
    for kind in used:
        assert used[kind] - declared[kind] == set(), kind
    assert used["var"] == declared["var"] and used["local"] == declared["local"]


def test_every_bucket_is_versioned_encrypted_closed_and_cleared_up() -> None:
    kinds = [address.partition(".")[0] for address, body in blocks("resource") if "local.buckets" in str(body)]
    assert kinds == [
        "aws_s3_bucket_versioning", "aws_s3_bucket_server_side_encryption_configuration",
        "aws_s3_bucket_public_access_block", "aws_s3_bucket_ownership_controls", "aws_s3_bucket_lifecycle_configuration",
    ]  # fmt: skip
    buckets = {address.partition(".")[2] for address, _ in blocks("resource") if address.startswith("aws_s3_bucket.")}
    (held,) = re.findall(r"buckets = \{(.*)\}", TEXT)
    assert set(re.findall(r"(\w+) =", held)) == buckets == {"registry", "landing"}
    closed = next(body for address, body in blocks("resource") if "public_access_block" in address)
    assert [closed[key] for key in closed if key.startswith(("block_", "ignore_", "restrict_"))] == [True] * 4
    assert "abort_incomplete_multipart_upload" in TEXT and TEXT.count("prevent_destroy = true") == len(buckets)


def test_every_role_has_its_policy_with_every_place_filled_in() -> None:
    (names,) = re.findall(r"roles = toset\(\[(.*)\]\)", TEXT)
    assert re.findall(r'"(\w+)"', names) == [role.name for role in policies.ROLES]
    (places,) = re.findall(r"places = \{(.*?)\n  \}", TEXT, re.DOTALL)
    known = {*re.findall(r"^\s*(\w+)\s*=", places, re.MULTILINE)}
    for name, text in policies.files().items():
        wanted = {*re.findall(r"\$\{(\w+)\}", text)}
        assert wanted - known == ({"collector_role_arn"} if name == "registry-bucket.json" else set())
    assert re.findall(r'templatefile\("\$\{path.module\}/policies/([^"]+)"', TEXT) == [
        "registry-bucket.json", "${each.key}.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word", ["aws:SourceArn", "sqs_managed_sse_enabled", "deadLetterTargetArn", "s3:ObjectCreated:*"]
)
def test_landing_files_are_told_of_and_lost_messages_kept(word: str) -> None:
    assert word in TEXT


def test_no_secret_is_in_the_configuration() -> None:
    assert not re.search(r"(?i)secret|password|AKIA|private_key", TEXT)
