"""Each data version is trained on once: of all who ask at once one gets it, and keeps it through a crash."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.data.profile import Profile
from tasks.storage.claims import Claims
from tasks.storage.corpus import Arrival, Corpus, DataVersion
from tasks.storage.registry import Registry
from tests.registries import NOW, publish


def arrive(corpus: Corpus, number: int, rows: int) -> None:
    one = Arrival(
        landing="l", key=f"f{number}", etag="e", size=1, formats={}, seen=rows, accepted=rows, duplicate=0, quarantined=0,
        reasons={},
    )  # fmt: skip
    corpus.store.create(f"versions/v{number}.json", DataVersion(
        number=number, parent=number - 1 or None, created=NOW, who="ada", action="ingest", data=f"{number}" * 64,
        pointer="outs: []", rows=rows * number, files={}, arrivals=(one,), profile=Profile().model_dump(mode="json"),
        added=Profile().model_dump(mode="json"),
    ).to_bytes())  # fmt: skip


def test_what_is_new_is_what_nobody_took_or_trained_on(registry: Registry, tmp_path: Path) -> None:
    claims = Claims(Corpus(registry.store), "m")
    assert claims.news(registry) is None and claims.newest(registry) == 0
    for number in (1, 2, 3):
        arrive(claims.corpus, number, 10)
    found = claims.news(registry)
    assert found and (found.version, found.rows, found.drift) == ("v3", 30, None)
    publish(registry, tmp_path, 1)  # its record says data v1: trained by hand
    found = claims.news(registry)
    assert found and found.rows == 20 and found.drift == 0.0
    claims.take(2, "run", NOW)
    found = claims.news(registry)
    assert found and found.rows == 10
    claims.take(3, "run", NOW)
    assert claims.news(registry) is None
    assert Claims(claims.corpus, "other").news(registry), "each model has its own"


def test_of_many_one_gets_it_and_a_crash_does_not_lose_it(registry: Registry) -> None:
    claims = Claims(Corpus(registry.store), "m")
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda run: claims.take(4, f"run {run}", NOW), range(16)))
    (winner,) = {claim.run for claim in found}
    assert claims.take(4, winner, NOW).run == winner == claims.take(4, "late", NOW).run
    assert claims.held(winner) == 4 and claims.held("late") is None
