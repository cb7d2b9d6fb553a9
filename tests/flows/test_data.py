"""`tuneline data` as a user types it, on a real store: every command, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, services: dict[str, str]) -> Project:
    """Two versions: 60 rows, then 40 of which 20 are new and one line that is none."""
    made = Project(tmp_path_factory.mktemp("data") / "project", tiny_base, services)
    made("tuneline", "data", "ingest", "data/sample")
    second = tiny.write_rows(made.folder / "data" / "sample" / "day2.jsonl", 40, start=40)
    with second.open("a", encoding="utf-8") as file:
        file.write('{"instruction": "Why?", "output": ""}\n')
    return made


def ask(project: Project, *words: str, code: int = 0) -> Any:
    return json.loads(project("tuneline", "data", *words, "--json", code=code).stdout)


def test_the_life_of_a_corpus(project: Project) -> None:
    status = ask(project, "status", "data/sample")
    assert [version["version"] for version in status["versions"]] == ["v1"] == [status["workspace"]]
    assert status["waiting"] == ["day2.jsonl"]

    checked = ask(project, "check", "data/sample/day2.jsonl", code=1)
    assert {key: checked[key] for key in ("seen", "accepted", "duplicate", "quarantined", "reasons")} == {
        "seen": 41, "accepted": 40, "duplicate": 0, "quarantined": 1, "reasons": {"blank turn": 1},
    }  # fmt: skip

    done = ask(project, "ingest", "data/sample")
    assert {key: done[key] for key in ("version", "created", "seen", "accepted", "duplicate", "quarantined", "rows")} == {
        "version": "v2", "created": True, "seen": 41, "accepted": 20, "duplicate": 20, "quarantined": 1, "rows": 80,
    }  # fmt: skip
    assert not ask(project, "ingest", "data/sample")["created"]

    shown = ask(project, "show", "v2")
    assert [arrival["key"] for arrival in shown["arrivals"]] == ["day2.jsonl"] and shown["parent"] == 1
    (refused,) = project("tuneline", "data", "show", "v2", "--quarantine").stdout.splitlines()
    assert (json.loads(refused)["line"], json.loads(refused)["kind"]) == (41, "blank turn")
    assert "blank turn: 1" in project("tuneline", "data", "show").stdout

    moved = ask(project, "diff", "v1", "v2")
    assert (moved["added"], moved["removed"], moved["unchanged"]) == (20, 0, 60)
    assert moved["added_by_source"] == {"sample": 20}
    assert "20 rows added" in project("tuneline", "data", "diff", "v1").stdout

    drift = ask(project, "drift", "v1", "--limit", "0.9")
    assert drift["rows"] == 20 and not drift["exceeded"] and 0 <= drift["drift"]["measure"]["tags"]["distance"] <= 1
    assert ask(project, "drift", "v1", "--limit=-1", code=1)["exceeded"]

    unknown = project("tuneline", "data", "drift", "nobody", code=2).stderr
    assert "there is no model 'nobody'" in unknown
    project("tuneline", "data", "checkout", "v1")
    assert "data/raw is v1: tuneline data checkout v2" in project("tuneline", "data", "status").stdout
    project("tuneline", "data", "checkout", "latest")

    found = ask(project, "forget", "--where", "tag=chat", "--dry-run")
    assert found["rows"] == len(found["ids"]) >= 5
    gone = ask(project, "forget", "--where", "tag=chat")
    assert gone["version"] == "v3" and gone["rows"] == found["rows"]
    assert ask(project, "status")["versions"][-1]["rows"] == 80 - gone["rows"]


def test_a_preview_shows_what_is_learned(project: Project) -> None:
    plain = project("tuneline", "data", "preview", "--rows", "1").stdout
    assert "<|im_start|>" in plain and "⟦" in plain
    (row,) = ask(project, "preview", "--rows", "1")
    learned = [token for token in row["tokens"] if token["loss"]]
    assert learned and learned[-1]["text"] == "<|im_end|>"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["ingest", "nowhere"], 3, "there is no such file or folder"),
        (["ingest"], 2, "TUNELINE_LANDING"),
        (["show", "v99"], 2, "no data version 'v99'"),
        (["checkout", "v99"], 2, "no data version 'v99'"),
        (["forget"], 2, "--where is missing"),
        (["forget", "--where", "colour=red"], 2, "expected FIELD=VALUE"),
        (["forget", "--where", "tag=no-such-tag"], 3, "nothing to forget"),
        (["check", "nowhere.jsonl"], 6, "nowhere.jsonl"),
        (["preview", "--id", "nobody"], 2, "no row of data/raw"),
    ],
)
def test_a_mistake_is_one_message(project: Project, words: list[str], code: int, says: str) -> None:
    failed = project("tuneline", "data", *words, code=code)
    assert failed.stderr.strip().splitlines()[-1].startswith("error: ") and says in failed.stderr
