"""Ingest on a real store: every row is accounted for, every file is taken in once, and a kill loses nothing."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.core import layout, manifest
from tasks.core.errors import DataError, IntegrityError, ParamsError
from tasks.core.sections import DataParams, PrepareParams
from tasks.data import selection, shards
from tasks.data.report import datacard
from tasks.forget import forget_selected, matching
from tasks.ingest import account, ingest
from tasks.prepare import prepare
from tasks.storage import checkout
from tasks.storage.corpus import Corpus, DataVersion
from tasks.storage.embedded import S3
from tasks.storage.store import Store
from tests import tiny

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"


@pytest.fixture
def environment(s3: S3, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A registry of one's own on the session's store, in this process's environment."""
    settings = {**s3.environment(), "TUNELINE_REGISTRY": f"s3://ingest/{uuid.uuid4().hex[:12]}"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


def workspace(folder: Path) -> Path:
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n[cache]\n    type = hardlink\n"
    )
    return folder


@pytest.fixture
def here(tmp_path: Path, environment: dict[str, str]) -> Path:
    return workspace(tmp_path / "here")


def take(landing: Path | str, here: Path, **params: Any) -> DataVersion:
    done = ingest(DataParams.model_validate(params), source=str(landing), workspace=here)
    assert done.version is not None
    return done.version


def rows(here: Path) -> list[str]:
    manifest.verify(here / layout.RAW)
    return [row.id for row in shards.read(here / layout.RAW)]


def write(file: Path, values: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file


def say(number: int, **more: Any) -> dict[str, Any]:
    return {"instruction": f"What is {number}?", "output": f"It is {number}.", **more}


def test_three_arrivals_become_three_versions_and_any_can_come_back(tmp_path: Path, here: Path) -> None:
    landing = tmp_path / "landing"
    found = list[DataVersion]()
    for day in (1, 2, 3):
        landing.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / "data" / "sample" / f"day{day}.jsonl", landing / f"day{day}.jsonl")
        found.append(take(landing, here))
    assert [version.rows for version in found] == [420, 510, 600]
    assert [version.parent for version in found] == [None, 1, 2]
    assert [arrival.key for arrival in found[2].arrivals] == ["day3.jsonl"]
    assert set(found[0].files) < set(found[1].files) < set(found[2].files)

    other = workspace(tmp_path / "another machine")
    corpus = Corpus.open(os.environ)
    for version in found:
        checkout.bring(other, corpus, version)
        assert manifest.verify(other / layout.RAW).digest == version.data
        assert len(rows(other)) == version.rows
        assert checkout.current(other) == version.name


def test_nothing_new_makes_no_version_and_a_changed_file_is_a_new_arrival(tmp_path: Path, here: Path) -> None:
    file = write(tmp_path / "landing" / "a.jsonl", [say(1), say(2)])
    first = take(file.parent, here)
    again = ingest(DataParams(), source=str(file.parent), workspace=here)
    assert not again.created and again.version == first
    write(file, [say(1), say(3)])
    second = take(file.parent, here)
    assert account(second.arrivals) == {"seen": 2, "accepted": 1, "duplicate": 1, "quarantined": 0, "reasons": {}}
    assert second.rows == 3


def test_an_s3_prefix_is_a_landing(s3: S3, environment: dict[str, str], tmp_path: Path, here: Path) -> None:
    store = Store.open("s3://ingest-landing/rows", environment)
    store.ensure_bucket()
    store.put("web/a.jsonl", json.dumps(say(1)).encode())
    store.put("web/b.jsonl.gz", gzip.compress(json.dumps(say(2)).encode()))
    store.put("web/c.jsonl.partial", b"not yet")
    first = take("s3://ingest-landing/rows", here)
    assert [arrival.key for arrival in first.arrivals] == ["web/a.jsonl", "web/b.jsonl.gz"]
    assert {row.source for row in shards.read(here / layout.RAW)} == {"web"}
    store.put("web/a.jsonl", json.dumps(say(3)).encode())
    assert take("s3://ingest-landing/rows", here).rows == 3


def test_every_row_is_accounted_for(tmp_path: Path, here: Path) -> None:
    """accepted + duplicate + quarantined = seen, in each file, for files of any mixture."""
    draw = random.Random(7)
    for number in range(12):
        kinds = [
            say(draw.randrange(30)),
            {"instruction": "", "output": ""},
            {"what": 1},
            {"chosen": "a", "rejected": "b"},
        ]
        write(tmp_path / "landing" / f"{number}.jsonl", draw.choices(kinds, [5, 1, 1, 1], k=draw.randrange(1, 40)))
    version = take(tmp_path / "landing", here, max_quarantined=1.0)
    assert len(version.arrivals) == 12
    lines = [
        line for file in (tmp_path / "landing").iterdir() for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert version.total("seen") == len(lines)
    for arrival in version.arrivals:
        assert arrival.accepted + arrival.duplicate + arrival.quarantined == arrival.seen
        assert sum(arrival.reasons.values()) == arrival.quarantined
    assert (
        version.total("accepted")
        == version.rows
        == len(rows(here))
        == len({line for line in lines if "What is" in line})
    )
    assert version.quarantine is not None
    refused = [json.loads(line) for line in Corpus.open(os.environ).report(version.quarantine).splitlines()]
    assert len(refused) == version.total("quarantined") > 10
    for row in refused:
        text = (tmp_path / "landing" / row["file"]).read_text(encoding="utf-8").splitlines()[row["line"] - 1]
        assert json.loads(row["text"]) == json.loads(text) and row["reason"]


def test_an_unreadable_file_is_left_and_comes_when_it_is_whole(tmp_path: Path, here: Path) -> None:
    landing = tmp_path / "landing"
    write(landing / "good.jsonl", [say(1)])
    whole = gzip.compress("".join(json.dumps(say(number)) + "\n" for number in range(2, 5000)).encode())
    (landing / "half.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    done = ingest(DataParams(), source=str(landing), workspace=here)
    assert done.version and done.version.rows == 1 and list(done.left) == ["half.jsonl.gz"]
    (landing / "half.jsonl.gz").write_bytes(whole)
    assert take(landing, here).rows == 4999


def test_a_file_of_mostly_unfit_rows_is_left(tmp_path: Path, here: Path) -> None:
    write(tmp_path / "landing" / "odd.jsonl", [{"what": 1}] * 3 + [say(1)])
    with pytest.raises(DataError, match=r"3 of 4 rows are unfit \(unknown format 3\).*data.max_quarantined=0.5"):
        take(tmp_path / "landing", here)
    assert Corpus.open(os.environ).versions() == [] and not (here / layout.RAW).exists()
    assert take(tmp_path / "landing", here, max_quarantined=0.8).rows == 1


def test_all_the_shared_files_become_a_version_and_a_training_set(tmp_path: Path, here: Path, real_base: Path) -> None:
    """Alpaca in two languages, tool conversations, tables, images and preferences, with a real template and tokenizer."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    columns = [{"prompt": "mr", "completion": "ref"}]
    version = take(SHARED, here, columns=columns)
    assert {arrival.key: (arrival.seen, arrival.quarantined) for arrival in version.arrivals} == {
        "e2e/devset.csv": (4672, 0),
        "e2e/testset_w_refs.csv": (4693, 0),
        "formats/alpaca_en_demo.json": (999, 0),
        "formats/alpaca_zh_demo.json": (1000, 0),
        "formats/dpo_en_demo.json": (300, 300),
        "formats/glaive_toolcall_en_demo.json": (300, 0),
        "formats/kto_en_demo.json": (300, 300),
        "formats/mllm_demo.json": (6, 0),
    }
    assert version.total("accepted") + version.total("duplicate") + 600 == version.total("seen")
    assert version.rows == len(rows(here)) > 11_000

    params = PrepareParams.model_validate({"max_length": 2048, "pack": {"tokens": 2048}})
    facts = prepare(
        params, raw=here / layout.RAW, base=real_base, out=tmp_path / "chat", report=tmp_path / "data"
    ).facts
    assert sum(facts["rows"].values()) + sum(facts["dropped"].values()) == version.rows
    assert facts["dropped"]["does not fit the model"] == 6, "the rows with images"
    assert facts["dropped"].get("longer than max_length", 0) < 50
    assert facts["packs"]["tokens"] / (facts["packs"]["count"] * 2048) > 0.97
    card = datacard.read(tmp_path / "data")
    assert card.identity.tools == "text" and card.composition.with_tools > 100 and card.accounting.read == version.rows


def test_racing_ingests_take_each_row_once(tmp_path: Path, environment: dict[str, str]) -> None:
    landing = tmp_path / "landing"
    for number in range(4):
        write(landing / f"{number}.jsonl", [say(number * 10 + each) for each in range(10)])
    places = [workspace(tmp_path / f"machine{number}") for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda place: run(place, environment, "ingest", "--source", str(landing)), places))
    assert [process.returncode for process in done] == [0, 0, 0], [process.stderr for process in done]
    versions = Corpus.open(environment).versions()
    marks = [arrival.mark for version in versions for arrival in version.arrivals]
    assert len(marks) == len(set(marks)) == 4
    assert versions[-1].rows == 40
    for place in places:
        checkout.bring(place, Corpus.open(environment), versions[-1])
        assert len(set(rows(place))) == len(rows(place)) == 40


def run(place: Path, environment: dict[str, str], step: str, *flags: str) -> subprocess.CompletedProcess[str]:
    if not (place / "params.yaml").exists():
        shutil.copyfile(ROOT / "params.yaml", place / "params.yaml")
    command = [sys.executable, "-m", f"tasks.{step}", *flags, "--workspace", "."]
    variables = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.core.sections import DataParams, PrepareParams
from tasks.ingest import ingest
from tasks.storage.corpus import Corpus
from tasks.storage.versions import Scratch

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

owner, method = {"push": (Scratch, "save"), "record": (Corpus, "register")}[sys.argv[1]]
if sys.argv[2] == "before":
    setattr(owner, method, die)
else:
    real = getattr(owner, method)
    setattr(owner, method, lambda *a: (real(*a), die()))
ingest(DataParams(), source=sys.argv[3], workspace=Path.cwd())
"""


@pytest.mark.parametrize("moment", [("push", "before"), ("push", "after"), ("record", "before"), ("record", "after")])
def test_a_kill_at_any_moment_loses_nothing_and_takes_nothing_twice(
    tmp_path: Path, here: Path, environment: dict[str, str], moment: tuple[str, str]
) -> None:
    """Between the push and the watermark, too: they are one record."""
    landing = write(tmp_path / "landing" / "a.jsonl", [say(number) for number in range(20)]).parent
    first = take(landing, here)
    write(landing / "b.jsonl", [say(number) for number in range(10, 40)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *moment, str(landing)], cwd=here, capture_output=True,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert manifest.verify(here / layout.RAW).digest == first.data, "the checkout is the whole old version"
    after = take(landing, here)
    assert after.number == 2 and after.rows == 40
    assert [arrival.key for arrival in after.arrivals] == ["b.jsonl"]
    assert len(set(rows(here))) == len(rows(here)) == 40
    assert not list((here / layout.HOME / "scratch").iterdir()), "what the killed one left is gone"


def test_a_file_deleted_while_it_is_read_is_left(
    s3: S3, environment: dict[str, str], tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed, and gone when its bytes are asked for."""
    store = Store.open("s3://ingest-landing/gone", environment)
    store.ensure_bucket()
    store.put("a.jsonl", json.dumps(say(1)).encode())
    store.put("b.jsonl", json.dumps(say(2)).encode())
    listed = Store.items

    def then_delete(self: Store, prefix: str) -> Iterator[Any]:
        found = list(listed(self, prefix))
        if self.prefix == "gone":
            store.delete("b.jsonl")
        return iter(found)

    monkeypatch.setattr(Store, "items", then_delete)
    done = ingest(DataParams(), source="s3://ingest-landing/gone", workspace=here)
    assert done.version and done.version.rows == 1
    assert done.left == {"b.jsonl": "b.jsonl was removed or replaced while it was read"}


def test_altered_shards_are_never_handed_out(tmp_path: Path, here: Path, environment: dict[str, str]) -> None:
    """DVC would: a cache file altered and left read-only is checked out without a word."""
    version = take(write(tmp_path / "landing" / "a.jsonl", [say(number) for number in range(50)]).parent, here)
    (shard,) = (path for path in (here / ".dvc" / "cache").rglob("*") if path.is_file() and path.stat().st_size == next(
        entry.size for entry in version.files.values()
    ))  # fmt: skip
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    shard.chmod(0o444)
    shutil.rmtree(here / layout.RAW)
    with pytest.raises(
        IntegrityError, match=r"was altered: delete .dvc/cache/files, then run `tuneline data checkout v1`"
    ):
        checkout.bring(here, Corpus.open(environment), version)
    shutil.rmtree(here / ".dvc" / "cache" / "files")
    checkout.bring(here, Corpus.open(environment), version)
    assert len(rows(here)) == 50
    other = workspace(tmp_path / "whole")
    checkout.bring(other, Corpus.open(environment), version)
    assert len(rows(other)) == 50


def test_a_checkout_of_what_lies_here_is_checked_too(tmp_path: Path, here: Path, environment: dict[str, str]) -> None:
    version = take(write(tmp_path / "landing" / "a.jsonl", [say(number) for number in range(50)]).parent, here)
    shard = next((here / layout.RAW).glob("*.zst"))
    data = shard.read_bytes()
    shard.unlink()  # not the cache's copy, which it may be a link to
    shard.write_bytes(data[:-1])
    checkout.bring(here, Corpus.open(environment), version)
    assert len(rows(here)) == 50


def test_files_that_no_version_has_are_not_overwritten(tmp_path: Path, here: Path) -> None:
    (here / layout.RAW).mkdir(parents=True)
    (here / layout.RAW / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files that no data version has"):
        take(write(tmp_path / "landing" / "a.jsonl", [say(1)]).parent, here)
    assert (here / layout.RAW / "mine.txt").read_text() == "mine"


def test_forgotten_rows_are_gone_and_stay_out(tmp_path: Path, here: Path) -> None:
    landing = tmp_path / "landing"
    write(landing / "a.jsonl", [say(number, tags=["vip" if number % 5 == 0 else "plain"]) for number in range(20)])
    first = take(landing, here)
    chosen = selection.parse(["tag=vip", "text~1"])
    assert len(matching(chosen, here)) == 2  # 10 and 15
    second = forget_selected(DataParams(), chosen, here)
    assert (
        second.forgotten is not None and second.forgotten.rows == 2 and second.forgotten.where == "tag=vip and text~1"
    )
    assert second.rows == 18 and len(rows(here)) == 18 and second.action == "forget"
    checkout.bring(here, Corpus.open(os.environ), first)
    assert len(rows(here)) == 20
    write(landing / "b.jsonl", [say(10), say(99)])
    third = take(landing, here)
    assert account(third.arrivals)["reasons"] == {"forgotten": 1} and third.rows == 19
    with pytest.raises(DataError, match="nothing to forget"):
        forget_selected(DataParams(), chosen, here)


def test_an_unknown_version_is_named(here: Path) -> None:
    with pytest.raises(ParamsError, match="no data version 'v3'.*there is none yet"):
        Corpus.open(os.environ).read("v3")


def test_a_missing_landing_is_named(here: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        take("no/such/folder", here)


@pytest.mark.parametrize("git", ["commit", "tag"])
def test_a_version_is_recorded_in_git_where_that_is_wanted(
    tmp_path: Path, environment: dict[str, str], git: str
) -> None:
    place = workspace(tmp_path / "repository")
    (place / "other.txt").write_text("not to be committed")
    for command in (["init", "-q"], ["config", "user.name", "t"], ["config", "user.email", "t@localhost"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "start"], cwd=place, check=True)
    take(tiny.write_rows(tmp_path / "landing" / "a.jsonl", 5).parent, place, git=git)

    def ask(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True).stdout.strip()

    assert ask("log", "-1", "--format=%s") == "Data version v1"
    assert ask("show", "--name-only", "--format=", "HEAD") == "data/raw.dvc"
    assert ask("tag") == ("data/v1" if git == "tag" else "")
    take(tmp_path / "landing", place, git=git)
    assert ask("rev-list", "--count", "HEAD") == "2"
