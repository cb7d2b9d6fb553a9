"""Publishing with a signing key: what is registered is signed, what was altered meanwhile is not, no secret leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import publish
from tasks.core import params
from tasks.core.errors import IntegrityError, ParamsError
from tasks.core.manifest import FileEntry
from tasks.storage import keys, manifests
from tasks.storage.embedded import S3
from tasks.storage.registry import Published, Registry
from tasks.storage.revision import Snapshot
from tests import tiny
from tests.line import Line, registry_environment
from tests.signers import pair

PASSPHRASE = "open-sesame-4711"


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return pair(tmp_path_factory.mktemp("keys-of-mine"), PASSPHRASE)


@pytest.fixture(scope="module")
def line(
    s3: S3, bucket: str, tiny_base: Path, mine: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Line]:
    """A workspace whose models were published with a key that signs."""
    with pytest.MonkeyPatch.context() as patch:
        values = {**registry_environment(s3, bucket, tmp_path_factory.mktemp("work")), **mine}
        for name, value in values.items():
            patch.setenv(name, value)
        made = Line(tmp_path_factory.mktemp("line") / "workspace", Registry.open(values))
        sections = tiny.params(
            tiny_base, fetch={"ref": str(tiny_base)}, quantize={"formats": []}, publish={"name": "sealed"},
            evaluate={"max_new_tokens": 2, "suite_items": 1},
        )  # fmt: skip
        assert made.make((60,), **sections) == "sealed@v1"
        yield made


def again(line: Line, changes: bytes | None = None) -> Published:
    chosen = params.load(line.root / params.FILE).publish
    return publish.publish_from(chosen, line.root, Snapshot("0" * 40, "0" * 40, changes), {}, line.registry)


def signed_by(registry: Registry) -> list[str]:
    return [each.key_id for each in registry.signatures.of(registry.read("sealed", 1))]


def test_what_is_published_is_signed_once(line: Line, mine: dict[str, str], tmp_path: Path) -> None:
    key = keys.signer(mine)
    assert key and line.registry.trusted == (key.public,)
    line.registry.signatures.require(line.registry.read("sealed", 1))
    assert not again(line).created
    assert signed_by(line.registry) == [key.public.id]
    assert [entry.action for entry in line.registry.log("sealed")] == ["publish", "sign"]


def test_no_secret_is_in_the_registry_or_the_workspace(line: Line, mine: dict[str, str]) -> None:
    private = Path(mine[keys.SIGNING])
    secrets = [PASSPHRASE.encode(), b"PRIVATE KEY", str(private).encode(), private.read_bytes().splitlines()[1]]
    store = line.registry.store
    stored = [store.whole(key) for key in store.keys("models/")]
    left = [path.read_bytes() for path in line.root.rglob("*") if path.is_file()]
    assert len(stored) >= 4 and len(left) > 20
    assert not [secret for secret in secrets for data in (*stored, *left) if secret in data]


def test_a_version_that_was_registered_before_is_signed_with_a_further_key(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not committed by then: the models are the same."""
    other = pair(tmp_path)
    monkeypatch.setenv(keys.SIGNING, other[keys.SIGNING])
    assert not again(line, b"a later change").created
    key = keys.signer(other)
    assert key and len(signed_by(line.registry)) == 2 and key.public.id in signed_by(line.registry)


def test_a_version_that_was_altered_in_the_store_is_not_signed(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still claims to be the same work: whoever signs it as it stands would vouch for files that are not theirs."""
    version, store = line.registry.read("sealed", 1), line.registry.store
    place, path = manifests.key("sealed", 1), next(path for path in version.files if path.endswith("safetensors"))
    whole = store.whole(place)
    evil = {**version.files, path: FileEntry(sha256="e" * 64, size=1)}
    store.put(place, version.model_copy(update={"files": evil}).to_bytes())
    monkeypatch.setenv(keys.SIGNING, pair(tmp_path)[keys.SIGNING])
    try:
        with pytest.raises(IntegrityError, match="sealed@v1 says that it is the same work and holds other files"):
            again(line)
    finally:
        store.put(place, whole)


def test_a_key_that_cannot_be_used_ends_it_before_anything_is_registered(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(line, registry=replace(line.registry, store=replace(line.registry.store, prefix="never")))
    monkeypatch.setenv(keys.PASSPHRASE, "wrong")
    with pytest.raises(ParamsError, match="does not open with TUNELINE_SIGNING_PASSPHRASE"):
        again(elsewhere)
    assert not list(elsewhere.registry.store.keys(""))
