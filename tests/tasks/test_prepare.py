"""Prepare accounts for every row, keeps splits apart, judges by the params, and gives the same bytes however it is run."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.core import manifest
from tasks.core.errors import DataError
from tasks.core.manifest import Manifest
from tasks.core.sections import DataParams, FetchParams, PrepareParams
from tasks.data import blocks, chatset, formats, shards, splits
from tasks.data.report import datacard
from tasks.fetch import fetch
from tasks.prepare import prepare
from tests import tiny

SPLITS = {"valid": 0.1, "test": 0.2}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("prepare") / "base"
    fetch(FetchParams(ref=str(tiny_base)), out=folder)
    return folder


def say(number: int, **more: Any) -> dict[str, Any]:
    draw = random.Random(number)
    asked = " ".join(f"w{draw.randrange(5_000)}" for _ in range(16))
    return {"id": str(number), "instruction": f"{number} {asked}", "output": f"Answer {number}.", **more}


def corpus(out: Path, *arrivals: list[dict[str, Any]]) -> Path:
    """One data version an arrival."""
    with manifest.staged(out) as folder:
        for number, values in enumerate(arrivals, start=1):
            with shards.Writer(folder, number) as writer:
                for value in values:
                    writer.write(formats.to_row(value, source=value.pop("from", "web"), params=DataParams()).to_line())
        facts = {"rows": sum(map(len, arrivals)), "forgotten": []}
        manifest.seal(folder, step="ingest", inputs={}, params={}, facts=facts)
    return out


def trains(value: dict[str, Any]) -> bool:
    """Whether the row falls to training under the splits that `run` asks for."""
    row = formats.to_row(dict(value), source="web", params=DataParams())
    return splits.place(row.group, PrepareParams.model_validate({"splits": SPLITS}).splits, "tuneline") == "train"


def run(raw: Path, base: Path, out: Path, **params: Any) -> Manifest:
    chosen = PrepareParams.model_validate({"splits": SPLITS, **params})
    return prepare(chosen, raw=raw, base=base, out=out / "chat", report=out / "report")


def dropped(out: Path) -> dict[str, str]:
    lines = (out / "report" / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def trained(out: Path) -> Counter[str]:
    return Counter(row.id for pack in chatset.Packs(out / "chat" / "train") for row in pack)


def judged(out: Path, split: str) -> list[str]:
    return [row.id for row in chatset.read(out / "chat" / f"{split}.parquet")]


def test_every_row_is_somewhere_once(tmp_path: Path, base: Path) -> None:
    raw = corpus(tmp_path / "raw", [say(number) for number in range(200)] + [say(500, output="very long " * 900)])
    made = run(raw, base, tmp_path)
    where = [*trained(tmp_path), *judged(tmp_path, "valid"), *judged(tmp_path, "test"), *dropped(tmp_path)]
    assert Counter(where) == Counter({str(number): 1 for number in [*range(200), 500]})
    assert dropped(tmp_path) == {"500": "longer than max_length"}
    assert sum(made.facts["rows"].values()) + sum(made.facts["dropped"].values()) == 201
    assert set(trained(tmp_path).values()) == {1}
    card = datacard.read(tmp_path / "report")
    assert card.accounting.read == 201 and card.identity.digest == manifest.read(raw).digest
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "card.json", "index.html", "README.md", "dropped.jsonl", "manifest.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "chat").iterdir()} == {
        "train", "valid.parquet", "test.parquet", "manifest.json",
    }  # fmt: skip


def test_packs_hold_whole_rows_as_the_tokenizer_gives_them(tmp_path: Path, base: Path) -> None:
    from tasks.data.tokens import ChatTokenizer

    raw = tiny.make_raw(tmp_path / "raw", 60)
    made = run(raw, base, tmp_path, pack={"tokens": 700})
    rows = {row.id: row for row in shards.read(raw)}
    tokenizer, packs = ChatTokenizer(base), list(chatset.Packs(tmp_path / "chat" / "train"))
    assert len(packs) == made.facts["packs"]["count"] > 3
    for pack in packs:
        assert sum(len(row.ids) for row in pack) <= 700
        for row in pack:
            encoded = tokenizer.encode(rows[row.id].messages, rows[row.id].tools)
            assert (row.ids, row.loss) == (encoded.ids, encoded.loss)


def test_growth_moves_no_row_and_no_prompt_stands_on_both_sides(tmp_path: Path, base: Path) -> None:
    first = [say(number) for number in range(100)]
    again = [say(number, id=f"again {number}", output=f"Another answer {number * 3}.") for number in range(0, 100, 4)]
    small, large = tmp_path / "small", tmp_path / "large"
    run(corpus(small / "raw", [dict(row) for row in first]), base, small)
    run(corpus(large / "raw", first, [say(number) for number in range(200, 300)], again), base, large)
    for split in ("valid", "test"):
        assert set(judged(small, split)) <= set(judged(large, split))
    kept = set(trained(small)) - set(dropped(large))
    assert kept <= set(trained(large))
    test = {name.removeprefix("again ") for name in judged(large, "test")}
    assert not test & {name.removeprefix("again ") for name in trained(large)}


def test_a_frozen_test_set_keeps_its_digest_and_holds_later_rows_out(tmp_path: Path, base: Path) -> None:
    splits = {"valid": 0.1, "test": 0.2, "test_until": 1}
    first, second = [say(number) for number in range(100)], [say(number) for number in range(100, 200)]
    before = run(corpus(tmp_path / "a" / "raw", [dict(row) for row in first]), base, tmp_path / "a", splits=splits)
    after = run(corpus(tmp_path / "b" / "raw", first, second), base, tmp_path / "b", splits=splits)
    assert before.facts["test_digest"] == after.facts["test_digest"]
    held = [id for id, reason in dropped(tmp_path / "b").items() if reason == "held out"]
    assert len(held) > 5 and all(int(id) >= 100 for id in held)
    assert not set(held) & set(trained(tmp_path / "b"))
    assert datacard.read(tmp_path / "b" / "report").accounting.held_out == len(held)


@pytest.mark.parametrize(("action", "falls"), [("drop", True), ("report", False), ("ignore", False)])
def test_near_duplicates_fall_where_the_params_say_so(tmp_path: Path, base: Path, action: str, falls: bool) -> None:
    text = " ".join(f"word{number}" for number in range(600))
    rows = [say(number) for number in range(60)]
    like = [say(number, id=f"like {number}", output=f"{text} end {number}") for number in range(300, 330)]
    rows += [row for row in like if trains(row)][:6]
    run(
        corpus(tmp_path / "raw", rows), base, tmp_path, quality={"near_duplicates": {"action": action}}, max_length=8192
    )
    gone = {id for id, reason in dropped(tmp_path).items() if reason == "near_duplicates"}
    left = {id for id in trained(tmp_path) if id.startswith("like")}
    assert (len(left), len(gone)) == ((1, 5) if falls else (6, 0))
    found = {rule.rule: rule for rule in datacard.read(tmp_path / "report").quality}
    assert ("near_duplicates" in found) == (action != "ignore")
    if action != "ignore":
        assert found["near_duplicates"].found == 5 and found["near_duplicates"].dropped == len(gone)


def test_a_training_row_that_copies_a_test_row_falls(tmp_path: Path, base: Path) -> None:
    rows = [say(number) for number in range(80)]
    plain = tmp_path / "plain"
    run(corpus(plain / "raw", [dict(row) for row in rows]), base, plain)
    leaked = next(row for row in rows if row["id"] in judged(plain, "test"))
    copies = [
        {"id": f"leak {number}", "instruction": f"Someone asked: {leaked['instruction']} {number}", "output": "Yes."}
        for number in range(20)
    ]
    copies = [row for row in copies if trains(row)][:3]
    run(corpus(tmp_path / "raw", rows + copies), base, tmp_path)
    assert not [id for id in trained(tmp_path) if id.startswith("leak")]
    assert {reason for id, reason in dropped(tmp_path).items() if id.startswith("leak")} == {"contamination"}
    assert leaked["id"] in judged(tmp_path, "test")


def test_personal_data_is_redacted_where_that_is_asked_for(tmp_path: Path, base: Path) -> None:
    rows = [say(number, output=f"Write to person{number}@mail.org, please.") for number in range(40)]
    run(corpus(tmp_path / "raw", rows), base, tmp_path, quality={"pii": {"action": "redact"}})
    test = chatset.read(tmp_path / "chat" / "test.parquet")
    assert test and all("@" not in row.messages and "[EMAIL]" in row.messages for row in test)
    card = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "mail.org" not in card
    assert next(rule for rule in datacard.read(tmp_path / "report").quality if rule.rule == "pii.email").found == 40


def test_sources_are_mixed_by_weight_and_cap(tmp_path: Path, base: Path) -> None:
    rows = [say(number, **{"from": "web" if number % 2 else "mail"}) for number in range(200)]
    mixing = {"sources": {"web": {"weight": 2}, "mail": {"cap": 10}}}
    made = run(corpus(tmp_path / "raw", rows), base, tmp_path, mixing=mixing)
    seen = trained(tmp_path)
    assert {seen[id] for id in seen if int(id) % 2} == {2}
    assert sum(1 for id in seen if int(id) % 2 == 0) == 10
    assert made.facts["dropped"]["mixing"] > 20
    assert made.facts["packs"]["rows"] == seen.total()


def test_packs_know_the_tasks_of_their_rows(tmp_path: Path, base: Path) -> None:
    rows = [say(number, tags=[f"tag {number % 3}", "other"] if number % 4 else []) for number in range(60)]
    rows += [say(number, **{"from": "mail"}) for number in range(60, 80)]
    raw = corpus(tmp_path / "raw", [dict(row) for row in rows])
    of_id = {row["id"]: row for row in rows}
    for tasks in ("source", "tag"):
        run(raw, base, tmp_path / tasks, pack={"tasks": tasks})
        packed = [row for pack in chatset.Packs(tmp_path / tasks / "chat" / "train") for row in pack]
        assert len({row.task for row in packed}) > 1
        for row in packed:
            value = of_id[row.id]
            assert row.task == (
                value.get("from", "web") if tasks == "source" else next(iter(value.get("tags", [])), "")
            )


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [say(number, id=str(number), output=f"Answer {number % 60}.") for number in range(600)]
    raw, seen = corpus(tmp_path / "raw", rows[:400], rows[400:]), dict[str, dict[str, Any]]()
    monkeypatch.setattr(blocks, "ROWS", 70)
    for name, threads in (("one", "1"), ("two", "2")):
        monkeypatch.setenv("TUNELINE_THREADS", threads)
        run(raw, base, tmp_path / name, mixing={"sources": {"web": {"weight": 0.7}}})
        folders = (tmp_path / name / "chat", tmp_path / name / "report")
        seen[name] = {part: manifest.verify(folder).files for folder in folders for part in [folder.name]}
    assert seen["one"] == seen["two"]


def test_rows_that_do_not_fit_are_too_many(tmp_path: Path, base: Path) -> None:
    rows = [say(number, output="long " * (900 if number % 3 == 0 else 1)) for number in range(60)]
    raw = corpus(tmp_path / "raw", rows)
    with pytest.raises(
        DataError, match=r"20 of 60 rows do not fit.*prepare.max_dropped=0.1; the first is 0: \d+ tokens"
    ):
        run(raw, base, tmp_path)
    assert not list(tmp_path.glob("chat*")) and not list(tmp_path.glob("report*"))
    assert run(raw, base, tmp_path, max_dropped=0.5).facts["dropped"] == {"longer than max_length": 20}


@pytest.mark.parametrize("count", [0, 1])
def test_next_to_no_rows_are_an_error_with_a_next_move(tmp_path: Path, base: Path, count: int) -> None:
    with pytest.raises(DataError, match=rf"no row fell to (train|test) \({count} rows in all.*bring more rows"):
        run(corpus(tmp_path / "raw", [say(number) for number in range(count)]), base, tmp_path)


def test_a_template_of_the_params_replaces_the_model_s_own(tmp_path: Path, tiny_base: Path) -> None:
    template = tiny.TEMPLATE.replace("<|im_end|>", " STOP<|im_end|>")
    fetch(FetchParams(ref=str(tiny_base), chat_template=template), out=tmp_path / "base")
    assert (tmp_path / "base" / "chat_template.jinja").read_text() == template
    from tasks.data.tokens import ChatTokenizer

    row = next(shards.read(tiny.make_raw(tmp_path / "raw", 1)))
    assert " STOP<|im_end|>" in ChatTokenizer(tmp_path / "base").spell(
        ChatTokenizer(tmp_path / "base").encode(row.messages).ids
    )


def going_on(base: Path, out: Path, data: int) -> Path:
    """The base as `fetch` leaves it where a version is continued that knows the data versions up to `data`."""
    shutil.copytree(base, out)
    sealed = manifest.read(base)
    continues = {"reference": "desk@v1", "keep": "merged", "data": data}
    manifest.seal(out, step="fetch", inputs={}, params=sealed.params, facts={**sealed.facts, "continues": continues})
    return out


def test_a_continued_version_learns_new_rows_and_a_share_of_the_known(tmp_path: Path, base: Path) -> None:
    first, second = [say(n) for n in range(300)], [say(n) for n in range(300, 400)]
    raw = corpus(tmp_path / "raw", first, second)
    known = {value["id"] for value in first if trains(dict(value))}
    new = {value["id"] for value in second if trains(dict(value))}
    anew = run(raw, base, tmp_path / "anew")
    assert set(trained(tmp_path / "anew")) == known | new and anew.facts["continues"] is None
    on = going_on(base, tmp_path / "base", 1)
    facts = run(raw, on, tmp_path / "on", replay=0.2).facts
    rows = set(trained(tmp_path / "on"))
    replayed = rows & known
    assert rows == new | replayed and 0.1 < len(replayed) / len(known) < 0.3
    assert facts["continues"] == {
        "reference": "desk@v1", "data": 1, "new": len(new), "replayed": len(replayed), "learned": len(known - rows),
    }  # fmt: skip
    assert facts["rows"]["test"] == anew.facts["rows"]["test"] and facts["test_digest"] == anew.facts["test_digest"]
    examples = chatset.read(tmp_path / "on" / "chat" / "test.parquet")
    assert {row.version for row in examples} == {1, 2}
    assert all((row.version == 2) == (int(row.id) >= 300) for row in examples)
    card = datacard.read(tmp_path / "on" / "report")
    assert card.continuing and (card.continuing.new, card.continuing.replayed) == (len(new), len(replayed))
    assert card.accounting.learned == len(known - rows) and "learned before" not in card.accounting.dropped
    for name in ("index.html", "README.md"):
        text = (tmp_path / "on" / "report" / name).read_text()
        assert f"{len(replayed)} replayed" in text or f"{len(replayed)} are replayed" in text
        assert "learned before, by desk" in text


def test_more_rows_move_no_replayed_one(tmp_path: Path, base: Path) -> None:
    first, second = [say(n) for n in range(300)], [say(n) for n in range(300, 340)]
    on = going_on(base, tmp_path / "base", 1)
    run(corpus(tmp_path / "raw", first, second), on, tmp_path / "few")
    run(corpus(tmp_path / "more", first, second, [say(n) for n in range(340, 400)]), on, tmp_path / "many")
    known = {value["id"] for value in first}
    assert set(trained(tmp_path / "few")) & known == set(trained(tmp_path / "many")) & known != set()
    later = going_on(base, tmp_path / "later", 2)  # another version to go on from draws another share
    run(corpus(tmp_path / "raw3", first, second, [say(n) for n in range(340, 400)]), later, tmp_path / "next")
    assert set(trained(tmp_path / "next")) & known != set(trained(tmp_path / "many")) & known


@pytest.mark.parametrize(("replay", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_replay_goes_from_none_to_all(tmp_path: Path, base: Path, replay: float, share: float) -> None:
    first, second = [say(n) for n in range(60)], [say(n) for n in range(60, 90)]
    run(corpus(tmp_path / "raw", first, second), going_on(base, tmp_path / "base", 1), tmp_path / "on", replay=replay)
    known = {value["id"] for value in first if trains(dict(value))}
    assert len(set(trained(tmp_path / "on")) & known) == share * len(known)


def test_nothing_new_is_refused(tmp_path: Path, base: Path) -> None:
    raw = corpus(tmp_path / "raw", [say(n) for n in range(60)])
    with pytest.raises(DataError, match=r"no row to train on arrived after data v1, which desk@v1 has learned"):
        run(raw, going_on(base, tmp_path / "base", 1), tmp_path / "on", replay=1.0)
    assert not (tmp_path / "on" / "chat").exists()
