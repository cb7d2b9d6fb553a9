"""Signatures: nothing that was altered passes, no other version, no other key; and OpenSSF's own tool reads them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import digest
from tasks.core.errors import IntegrityError, ParamsError
from tasks.core.manifest import FileEntry
from tasks.storage import garbage, keys, signing
from tasks.storage.keys import PrivateKey
from tasks.storage.model_version import Version, draft
from tasks.storage.registry import Registry
from tests.registries import NOW, publish, record
from tests.signers import pair, signer

FILES = {"merged/a-b": b"1", "merged/a/b": b"2", "adapter/x": b"3", "card": b"4"}
ENTRIES = {path: FileEntry(sha256=digest.of_bytes(data), size=len(data)) for path, data in FILES.items()}
VERSION = draft("desk", ENTRIES, "work", record(1), NOW)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return signer(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return signer(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def signed(key: PrivateKey) -> bytes:
    return signing.sign(VERSION, key)


def sign(registry: Registry, version: Version, key: PrivateKey) -> bool:
    return registry.signatures.sign(version, key, who="ada", now=NOW + timedelta(seconds=1))


def trusting(registry: Registry, *signers: PrivateKey) -> Registry:
    return replace(registry, trusted=tuple(each.public for each in signers))


NAMES = st.text("ab-._0", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PATHS = st.sets(st.tuples(NAMES, NAMES).map("/".join), min_size=1)


@given(PATHS)
def test_what_was_signed_passes(key: PrivateKey, paths: set[str]) -> None:
    version = draft("desk", dict.fromkeys(paths, ENTRIES["card"]), "work", {}, NOW)
    data = signing.sign(version, key)
    assert signing.check(data, version, "here") == key.public
    assert set(json.loads(data)["bundles"]) == {"all", *version.parts}


@given(st.data())
def test_no_altered_byte_passes(signed: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(signed) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != signed[place]))
    with pytest.raises(IntegrityError, match="here is"):
        signing.check(signed[:place] + bytes([byte]) + signed[place + 1 :], VERSION, "here")


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"name": "desk2"},
        {"identity": "other"},
        {"created": NOW + timedelta(seconds=1)},
        {"record": record(2)},
        {"files": {path: entry for path, entry in ENTRIES.items() if path != "card"}},
        {"files": {**ENTRIES, "more": ENTRIES["card"]}},
        {"files": {**ENTRIES, "card": ENTRIES["adapter/x"]}},
        {"files": {**ENTRIES, "card": FileEntry(sha256=ENTRIES["card"].sha256, size=2)}},
    ],
)
def test_no_other_version_passes(signed: bytes, change: dict[str, Any]) -> None:
    other = VERSION.model_copy(update=change)
    with pytest.raises(IntegrityError, match=f"no signature of {other.reference} as it is"):
        signing.check(signed, other, "here")


def test_no_bundle_can_be_left_out_or_taken_from_another_signature(
    signed: bytes, key: PrivateKey, stranger: PrivateKey
) -> None:
    value, theirs = json.loads(signed), json.loads(signing.sign(VERSION, stranger))
    other = json.loads(signing.sign(VERSION.model_copy(update={"number": 2}), key))
    bundles = value["bundles"]
    for forged in (
        {**value, "bundles": {part: bundle for part, bundle in bundles.items() if part != "merged"}},
        {**value, "bundles": {**bundles, "all": bundles["merged"]}},
        {**value, "bundles": {**bundles, "all": other["bundles"]["all"]}},
        {**value, "bundles": theirs["bundles"]},
        {**value, "key": theirs["key"]},
        {**value, "bundles": {**bundles, "all": {}}},
        {**value, "more": 1},
    ):
        data = json.dumps(forged, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        with pytest.raises(IntegrityError):
            signing.check(data, VERSION, "here")


def test_a_statement_is_what_it_was_in_earlier_releases(signed: bytes) -> None:
    """Old signatures have to fit: whoever changes a version's bytes or the statement meets this first."""
    assert digest.of_bytes(VERSION.to_bytes()) == "81c90d987491a10582918a982c4b4073c58f50b66d7566e63422be9d962ef1a0"
    assert (
        digest.of_bytes(signing.statement(VERSION, "all"))
        == "0bda05c5f0586825cb89d72e5534c8cb6d1f4d95452e1bfab763a3e6d57375e9"
    )
    said = json.loads(signing.statement(VERSION, "merged"))
    assert [each["name"] for each in said["predicate"]["resources"]] == ["a/b", "a-b"]  # by folder, as model-signing
    bundle = json.loads(signing.bundle(signed, VERSION, "merged", "here"))
    assert base64.b64decode(bundle["dsseEnvelope"]["payload"]) == signing.statement(VERSION, "merged")


def test_signing_twice_is_once_and_stands_in_the_log(registry: Registry, key: PrivateKey, tmp_path: Path) -> None:
    version = publish(registry, tmp_path, 1)
    assert sign(registry, version, key)
    assert not sign(registry, version, key)
    last = registry.log("m")[-1]
    assert (last.action, last.version, last.why) == ("sign", 1, f"key {key.public.id}")
    assert list(registry.store.keys("models/m/signatures/")) == [f"models/m/signatures/v1-{key.public.id}.json"]


def test_only_a_trusted_keys_signature_lets_a_version_be_pulled(
    registry: Registry, key: PrivateKey, stranger: PrivateKey, tmp_path: Path
) -> None:
    version, strict = publish(registry, tmp_path, 1), trusting(registry, key)
    with pytest.raises(IntegrityError, match=r"m@v1 has no valid signature .*\(it has none\).*models sign m@v1"):
        strict.pull(version, None, tmp_path / "out")
    sign(registry, version, stranger)
    with pytest.raises(IntegrityError, match=f"the key {stranger.public.id} is not trusted"):
        strict.pull(version, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sign(registry, version, key)
    strict.pull(version, None, tmp_path / "out")
    assert {each.key_id: each.trusted for each in strict.signatures.of(version)} == {
        key.public.id: True, stranger.public.id: False,
    }  # fmt: skip
    assert all(each.trusted is None and each.problem is None for each in registry.signatures.of(version))

    altered = version.model_copy(update={"record": record(2)})
    with pytest.raises(IntegrityError, match="no signature of m@v1 as it is"):
        strict.pull(altered, None, tmp_path / "altered")


def test_a_strangers_signature_under_a_trusted_name_counts_for_nothing(
    registry: Registry, key: PrivateKey, stranger: PrivateKey, tmp_path: Path
) -> None:
    version = publish(registry, tmp_path, 1)
    place = f"models/m/signatures/v1-{key.public.id}.json"
    registry.store.put(place, signing.sign(version, stranger))
    with pytest.raises(IntegrityError, match=f"is of the key {stranger.public.id}"):
        trusting(registry, key).signatures.require(version)
    with pytest.raises(IntegrityError, match=f"is of the key {stranger.public.id}"):
        sign(registry, version, key)
    with pytest.raises(IntegrityError, match="m@v1 has no valid signature"):
        registry.signatures.bundle(version, None)


def test_signatures_of_retired_versions_stay(registry: Registry, key: PrivateKey, tmp_path: Path) -> None:
    for number in (1, 2):
        sign(registry, publish(registry, tmp_path, number), key)
    before = set(registry.store.keys("models/m/signatures/"))
    gone = garbage.collect(registry, 1, timedelta(0), NOW + timedelta(days=1), "ada")
    assert [version.number for version in gone.retired] == [1]
    assert set(registry.store.keys("models/m/signatures/")) == before and len(before) == 2


def model_signing(folder: Path, signature: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["verify", "key", str(folder), "--signature", str(signature), "--public_key", environ[keys.TRUSTED]]
    return subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True)


@pytest.mark.parametrize("part", [None, "merged"])
def test_model_signing_reads_what_was_pulled(registry: Registry, tmp_path: Path, part: str | None) -> None:
    """The tool that OpenSSF ships, on what `models pull` and `models signature` bring."""
    mine, other = pair(tmp_path / "mine"), pair(tmp_path / "other")
    version = publish(registry, tmp_path, 1, **{"merged/a-b": b"1", "merged/a/b": b"2", "adapter/x": b"3"})
    key = keys.signer(mine)
    assert key and sign(registry, version, key)
    registry.pull(version, part, tmp_path / "model")
    file = tmp_path / "model.sig"
    file.write_bytes(registry.signatures.bundle(version, part))
    done = model_signing(tmp_path / "model", file, mine)
    assert "Verification succeeded" in done.stdout, done.stderr
    assert "Key mismatch" in model_signing(tmp_path / "model", file, other).stderr

    flipped = tmp_path / "model" / ("a/b" if part else "merged/a/b")
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]))
    refused = model_signing(tmp_path / "model", file, mine)
    assert refused.returncode and "Hash mismatch for" in refused.stderr and "a/b" in refused.stderr


def test_a_part_that_is_not_there_has_no_signature(registry: Registry, key: PrivateKey, tmp_path: Path) -> None:
    version = publish(registry, tmp_path, 1)
    sign(registry, version, key)
    with pytest.raises(ParamsError, match="has no part 'nf4'"):
        registry.signatures.bundle(version, "nf4")
