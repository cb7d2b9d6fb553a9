"""Every kind of damage in a registry is found and named, and nothing else is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import ParamsError, StorageError
from tasks.storage import blobs
from tasks.storage.registry import Registry
from tasks.storage.store import SMALL, Store
from tasks.storage.verification import Inspection, verify
from tests import faulty_store
from tests.faulty_store import cut, refusal
from tests.registries import NOW, Service, alone, publish
from tests.signers import signer

V1, V2 = "models/m/versions/v1.json", "models/m/versions/v2.json"
CHAMPION = "models/m/aliases/champion.json"


@pytest.fixture
def registry(root: Store, tmp_path: Path) -> Registry:
    """Two versions of m, one aliased and one pinned, and one of another model."""
    made = alone(root)
    first, second = (publish(made, tmp_path, number, big=os.urandom(3_000_000 * number)) for number in (1, 2))
    publish(made, tmp_path, 3, "other")
    made.aliases.promote(first, "champion", who="ada", why="x", now=NOW)
    made.pins.pin(second, who="ada", why="x", now=NOW)
    return made


def blob_of(registry: Registry, path: str, number: int = 1) -> str:
    return blobs.key(registry.read("m", number).files[path].sha256)


def flipped(store: Store, key: str) -> None:
    data = bytearray(store.whole(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def test_a_whole_registry_has_no_faults(registry: Registry) -> None:
    assert verify(registry) == Inspection(3, 6, 9_000_004, ())  # shared by all three: one blob
    assert verify(registry, "m") == Inspection(2, 5, 9_000_003, ())
    assert verify(registry, "m", 2) == Inspection(1, 3, 6_000_002, ())
    with pytest.raises(ParamsError, match="there is no model 'nobody'"):
        verify(registry, "nobody")
    with pytest.raises(ParamsError, match="m has no version v7"):
        verify(registry, "m", 7)


def test_an_empty_store_has_no_faults(root: Store) -> None:
    assert verify(alone(root)) == Inspection(0, 0, 0, ())


@pytest.mark.parametrize(
    ("damage", "suffer", "words"),
    [
        (lambda r: flipped(r.store, blob_of(r, "big")), "m@v1", "big: its blob .* was altered"),
        (lambda r: r.store.delete(blob_of(r, "big")), "m@v1", "big: its blob .* is missing"),
        (lambda r: r.store.put(blob_of(r, "big"), b"x"), "m@v1", "has 1 bytes instead of 3000000"),
        (
            lambda r: flipped(r.store, blob_of(r, "merged/shared")),
            "m@v1, m@v2, other@v1",
            "merged/shared: .* was altered",
        ),
        (
            lambda r: r.store.put(V2, r.store.whole(V2).replace(b"work 2", b"work 3")),
            "m@v2",
            "v2.json is not what was published",
        ),
        (lambda r: r.store.put(V1, b" " * (SMALL + 1)), "m@v1", "v1.json has more than"),
        (
            lambda r: r.store.put(V1, r.store.whole(V1).replace(b'"big"', b'"../big"')),
            "m@v1",
            "'../big' is not a plain relative path",
        ),
        (lambda r: r.store.delete(V2), "m@v2", "v2.json is missing, and the log knows"),
        (lambda r: r.store.delete(V1), "m@champion", "m@champion names v1, which is gone"),
        (lambda r: r.store.put(CHAMPION, b"garbage"), "m@champion", "champion.json is damaged"),
        (lambda r: r.store.put("models/m/pins/v2.json", b"{}"), "m@v2", "pins/v2.json is damaged"),
        (lambda r: r.store.delete(V2), "m@v2", "keeps m@v2, which is gone"),
        (lambda r: r.store.put("models/m/log/x.json", b"?"), "m", "log/x.json is damaged"),
    ],
)
def test_damage_is_named(registry: Registry, damage: Callable[[Registry], None], suffer: str, words: str) -> None:
    damage(registry)
    found = [fault for fault in verify(registry).faults if ", ".join(fault.suffer) == suffer]
    assert re.search(words, "\n".join(fault.problem for fault in found))
    assert all(fault.problem.count("s3://") or "names v1" in fault.problem for fault in found)


def test_signatures_are_looked_at(registry: Registry, tmp_path: Path) -> None:
    mine, other = signer(tmp_path / "mine"), signer(tmp_path / "other")
    for number, key in ((1, mine), (2, other)):
        registry.signatures.sign(registry.read("m", number), key, who="ada", now=NOW)
    assert not verify(registry).faults
    strict = replace(registry, trusted=(mine.public,))
    assert not verify(strict, "m", 1).faults
    assert [(fault.suffer, "no valid signature" in fault.problem) for fault in verify(strict).faults] == [
        (("m@v2",), True), (("other@v1",), True),
    ]  # fmt: skip

    place = f"models/m/signatures/v1-{mine.public.id}.json"
    flipped(registry.store, place)
    (altered,) = verify(registry).faults
    assert altered.suffer == ("m@v1",) and registry.store.at(place) in altered.problem
    registry.store.put(place, registry.store.whole(f"models/m/signatures/v2-{other.public.id}.json"))
    (taken,) = verify(registry, "m", 1).faults
    assert "is no signature of m@v1 as it is" in taken.problem
    assert len(verify(strict, "m", 1).faults) == 2


def test_a_manifest_that_was_altered_after_it_was_signed_is_a_fault(registry: Registry, tmp_path: Path) -> None:
    registry.signatures.sign(registry.read("m", 1), signer(tmp_path), who="ada", now=NOW)
    registry.store.put(V1, registry.store.whole(V1).replace(b'"exact_match": 0.1', b'"exact_match": 0.9'))
    problems = [fault.problem for fault in verify(registry, "m", 1).faults]
    assert any("is not what was published" in problem for problem in problems)
    for key in list(registry.store.keys("models/m/log/")):  # who can alter one object can remove another
        registry.store.delete(key)
    (told,) = verify(registry, "m", 1).faults
    assert "is no signature of m@v1 as it is" in told.problem


def test_every_fault_is_named_at_once(registry: Registry) -> None:
    registry.store.delete(blob_of(registry, "big"))
    flipped(registry.store, blob_of(registry, "big", 2))
    registry.store.delete("models/other/versions/v1.json")
    assert [fault.suffer for fault in verify(registry).faults] == [("m@v1",), ("m@v2",), ("other@v1",)]


def test_a_broken_connection_is_no_damage(registry: Registry, s3: Service) -> None:
    with faulty_store.proxied(s3.environment()["AWS_ENDPOINT_URL_S3"]) as (proxy, endpoint):
        behind = Registry(Store.open(registry.store.url, {**s3.environment(), "AWS_ENDPOINT_URL_S3": endpoint}))
        proxy.fault = lambda method, path, answer: (
            cut(answer, 2_000_000) if "/blobs/" in path and method == "GET" else answer
        )
        assert verify(behind) == verify(registry)
        assert any("bytes=2000000-" in headers.get("Range", "") for _, _, headers in proxy.seen)
        proxy.spoil = lambda method, path: (
            refusal(403, "AccessDenied") if "/blobs/" in path and method == "GET" else None
        )
        with pytest.raises(StorageError, match="access denied"):
            verify(behind)
