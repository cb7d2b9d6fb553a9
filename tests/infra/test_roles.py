"""Each role does its commands on a real store, and is refused everything else, with the object's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from infra import policies, seaweedfs
from infra.policies import PLACES, ROLES, Role
from tasks.core.errors import StorageError
from tasks.storage import garbage
from tasks.storage.verification import verify
from tests.infra.roles import REGISTRY, Roles, serving
from tests.project import Project
from tests.registries import NOW, begin_upload, laid, publish
from tests.signers import signer

SAID = {"who": "ada", "why": "asked for", "now": NOW}
names = (f"m{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Generator[Roles]:
    with serving(tmp_path_factory.mktemp("roles")) as found:
        yield found


def example(place: str) -> str:
    return place.replace("*", "x1")


def refused(act: Callable[[], object], key: str) -> bool:
    """Whether the store does not let it; the message names the object."""
    try:
        act()
    except StorageError as error:
        assert f"{REGISTRY}/{key}" in str(error) and "access denied" in str(error)
        return True
    return False


def test_a_trainer_publishes_and_signs_and_moves_no_alias(roles: Roles, tmp_path: Path) -> None:
    name, registry = next(names), roles.registry("trainer")
    large = laid(tmp_path / "large", {"merged/large": b"l" * (17 << 20)})  # sent in parts
    version = registry.publish(name, large, "large", {}, NOW, "ada").version
    assert registry.signatures.sign(version, signer(tmp_path / "keys"), who="ada", now=NOW)
    with pytest.raises(StorageError, match=rf"models/{name}/aliases/champion\.json.*access denied"):
        registry.aliases.promote(version, "champion", **SAID)
    with pytest.raises(StorageError, match=r"pins/v1\.json.*access denied"):
        registry.pins.pin(version, **SAID)
    assert roles.registry("reader").aliases.of(name) == [] and list(registry.store.keys("leases/")) == []


def test_a_promoter_moves_aliases_and_publishes_nothing(roles: Roles, tmp_path: Path) -> None:
    name, registry = next(names), roles.registry("promoter")
    first, second = (publish(roles.registry("trainer"), tmp_path, number, name) for number in (1, 2))
    registry.aliases.promote(first, "champion", **SAID)
    assert registry.aliases.promote(second, "champion", **SAID, expect=1).made
    assert registry.aliases.rollback(name, "champion", **SAID).made
    assert registry.pins.pin(second, **SAID)
    registry.pins.release(name, 2, **SAID)
    with pytest.raises(StorageError, match=r"blobs/sha256/.*access denied"):
        publish(registry, tmp_path, 3, name, more=b"new bytes")
    assert [entry.action for entry in registry.log(name)].count("promote") == 2


def test_a_reader_reads_all_and_writes_nothing(roles: Roles, tmp_path: Path) -> None:
    name, registry = next(names), roles.registry("reader")
    assert registry.names() is not None
    version = publish(roles.registry("trainer"), tmp_path, 1, name)
    roles.registry("promoter").aliases.promote(version, "champion", **SAID)
    assert registry.find(f"{name}@champion") == version and registry.log(name)
    registry.pull(version, None, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "merged" / "own").read_bytes() == b"1"
    assert verify(registry, name).faults == ()
    with pytest.raises(StorageError, match="access denied"):
        publish(registry, tmp_path, 2, name)


def test_a_collector_removes_what_nobody_names(roles: Roles, tmp_path: Path) -> None:
    name, registry = next(names), roles.registry("collector")
    for number in (1, 2, 3):
        publish(roles.registry("trainer"), tmp_path, number, name)
    later = datetime.now(UTC) + timedelta(days=2)
    done = garbage.collect(registry, 1, timedelta(0), later, "the collector")
    assert {version.number for version in done.retired if version.name == name} == {1, 2}
    assert registry.manifests.numbers(name) == [3] and verify(roles.registry("reader"), name).faults == ()
    assert roles.store("reader").get("gc.json") is None
    assert [e.action for e in registry.log(name)].count("retire") == 2


def test_unfinished_uploads_are_dropped_by_whoever_may_send(roles: Roles) -> None:
    """SeaweedFS 4.48 asks for s3:PutObject there; AWS for s3:AbortMultipartUpload, which a collector has too."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    begin_upload(roles.environ(seaweedfs.ADMIN), roles.store("reader"), "blobs/sha256/00/unfinished")
    with pytest.raises(StorageError, match="clearing unfinished uploads.*access denied"):
        roles.store("reader").abort_uploads("blobs/", soon)
    with pytest.raises(StorageError, match="clearing unfinished uploads.*access denied"):
        roles.store("collector").abort_uploads("blobs/", soon)
    assert roles.store("trainer").abort_uploads("blobs/", soon) >= 1


@pytest.mark.parametrize("name", ["trainer", "promoter", "reader"])
def test_only_a_collector_collects(roles: Roles, name: str) -> None:
    with pytest.raises(StorageError, match=r"gc\.json.*access denied"):
        garbage.collect(roles.registry(name), 1, timedelta(0), datetime.now(UTC), "somebody")


def test_a_worker_publishes_and_promotes(roles: Roles, tmp_path: Path) -> None:
    registry = roles.registry("worker")
    version = publish(registry, tmp_path, 1, next(names))
    assert registry.aliases.promote(version, "champion", **SAID).made


def test_an_ingester_takes_landing_files_in_and_a_trainer_reads_them(
    roles: Roles, tmp_path: Path, tiny_base: Path
) -> None:
    project = Project(tmp_path / "project", tiny_base, {})
    rows = (project.folder / "data" / "sample" / "day1.jsonl").read_bytes()
    roles.landing(seaweedfs.ADMIN).put("day1.jsonl", rows)
    landing = {"TUNELINE_LANDING": "s3://arrivals/rows"}
    project("tuneline", "data", "ingest", **roles.environ("ingester"), **landing)
    assert roles.store("reader").get("data/versions/v1.json")
    again = Project(tmp_path / "again", tiny_base, {})
    again("tuneline", "data", "checkout", "v1", **roles.environ("trainer"))
    assert list((again.folder / "data" / "raw").iterdir())
    for name in ("ingester", "trainer"):
        with pytest.raises(StorageError, match=r"s3://arrivals/rows/day1\.jsonl.*access denied"):
            roles.landing(name).delete("day1.jsonl")
    with pytest.raises(StorageError, match="access denied"):
        roles.landing("trainer").get("day1.jsonl")


@pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])
def test_a_role_writes_and_removes_only_in_its_places(roles: Roles, role: Role) -> None:
    admin, store = roles.store(seaweedfs.ADMIN), roles.store(role.name)
    keys = [example(place) for place in PLACES]
    for key in keys:
        admin.put(key, b"as it was")
    written = {
        place for place, key in zip(PLACES, keys, strict=True) if not refused(lambda k=key: store.put(k, b"x"), key)
    }
    removed = {
        place for place, key in zip(PLACES, keys, strict=True) if not refused(lambda k=key: store.delete(k), key)
    }
    for key in keys:
        admin.delete(key)
    assert (written, removed) == ({*role.writes}, {*role.deletes})


@pytest.mark.parametrize(
    "key", ["models/m/aliases/versions/x.json", "blobs/../models/m/aliases/champion.json", "other/x", "models/m.json"]
)
def test_no_key_looks_like_an_allowed_one(roles: Roles, key: str) -> None:
    with pytest.raises(StorageError):
        roles.store("trainer").put(key, b"x")


def test_nobody_changes_the_bucket(roles: Roles) -> None:
    for role in ROLES:
        environ = roles.environ(role.name)
        client = boto3.client(
            "s3", endpoint_url=roles.endpoint, region_name="us-east-1", aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        for act in (
            lambda c=client: c.delete_bucket(Bucket="models"),
            lambda c=client: c.create_bucket(Bucket="more"),
            lambda c=client: c.put_bucket_policy(Bucket="models", Policy="{}"),
            lambda c=client: c.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Suspended"}),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                act()


def test_in_the_bucket_policy_nobody_removes_what_is_kept(roles: Roles, tmp_path: Path) -> None:
    """SeaweedFS reads it as AWS does, but for the conditions: it has neither s3:if-none-match nor the role's ARN."""
    admin = boto3.client(
        "s3", endpoint_url=roles.endpoint, region_name="us-east-1",
        aws_access_key_id=seaweedfs.access_key(seaweedfs.ADMIN),
        aws_secret_access_key=roles.environ(seaweedfs.ADMIN)["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    name = next(names)
    publish(roles.registry("trainer"), tmp_path, 1, name)
    line = next(iter(roles.store("reader").keys(f"models/{name}/log/")))
    document = policies.bucket(policies.Site("models", "line/registry", "arrivals", "rows"), "arn:aws:iam::1:role/c")
    document["Statement"] = [each for each in document["Statement"] if "Condition" not in each]
    assert len(document["Statement"]) == 1
    admin.put_bucket_policy(Bucket="models", Policy=policies.text(document))
    try:
        with pytest.raises(StorageError, match="access denied"):
            roles.store(seaweedfs.ADMIN).delete(line)
        publish(roles.registry("trainer"), tmp_path, 2, name)
    finally:
        admin.delete_bucket_policy(Bucket="models")


def sids(documents: Iterable[policies.Document]) -> list[list[str]]:
    return [[statement["Sid"] for statement in document["Statement"]] for document in documents]


def test_committed_policies_are_what_the_source_says() -> None:
    folder = Path(policies.__file__).parent / "terraform" / "policies"
    committed = {file.name: file.read_text() for file in folder.iterdir()}
    assert committed == policies.files() and len(committed) == len(ROLES) + 1


def test_policies_fit_into_what_aws_takes() -> None:
    site = policies.Site("b" * 63, "p" * 60, "l" * 63, "r" * 60, "arn:aws:sqs:eu-central-1:123456789012:" + "q" * 80)
    documents = [policies.policy(role, site) for role in ROLES]
    assert max(len("".join(policies.text(document).split())) for document in documents) <= policies.LIMIT
    assert all(len(set(found)) == len(found) for found in sids(documents))


def test_every_place_is_somebodys_to_write() -> None:
    assert {place for role in ROLES for place in role.writes} == {*PLACES}
    for role in ROLES:
        assert not {*role.deletes} & {*policies.KEPT}
