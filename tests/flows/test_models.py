"""`tuneline models` as a user types it, on a real store: every command, for people and for scripts."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tasks.storage import blobs
from tasks.storage.judgements import Judgement
from tasks.storage.registry import Registry
from tasks.storage.store import Store
from tests.gate_cases import BASE, WIDE, case, scores
from tests.models import ask, published, say
from tests.project import Project
from tests.registries import publish


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, services: dict[str, str]) -> Project:
    return published(tmp_path_factory.mktemp("models"), tiny_base, services, 1, 2, 3)


def test_the_life_of_a_champion(project: Project, tmp_path: Path) -> None:
    by_hand = ("promote", "--unjudged", "--why")
    first = ask(project, *by_hand, "the first", "desk@v1", "--expect", "none")
    assert (first["moved"], first["version"], first["generation"]) == (True, 1, 1)
    assert "desk@champion names v3 now, v1 before (move 2)" in say(
        project, *by_hand, "0.3 > 0.1", "desk", "--expect", "v1"
    )
    refused = say(project, *by_hand, "late", "desk@v2", "--expect", "v1", code=8)
    assert "desk@champion no longer names v1, now at v3 (move 2" in refused
    assert "names v3 already (move 2" in say(project, "promote", "desk@v3", "--why", "again")

    assert ask(project, "show", "desk@champion")["reference"] == "desk@v3"
    assert "is        champion" in say(project, "show", "desk@champion")
    project("tuneline", "models", "pull", "desk@champion", "--to", str(tmp_path / "pulled"))
    assert (tmp_path / "pulled" / "own").read_bytes() == b"3"
    assert [row["aliases"] for row in ask(project, "list", "desk")] == [[], [], ["champion"]]
    assert say(project, "list").count("[champion]") == 1

    back = ask(project, "rollback", "desk", "--why", "complaints")
    assert (back["version"], back["previous"], back["moved"]) == (1, 3, True)
    moves = [(e["generation"], e["action"], e["why"]) for e in ask(project, "log", "desk") if e["alias"]]
    assert moves == [(1, "promote", "the first"), (2, "promote", "0.3 > 0.1"), (3, "rollback", "complaints")]
    lines = say(project, "log", "desk").splitlines()
    assert len(lines) == 6 and "rollback  v1     champion #3 from v3  complaints" in lines[-1]


def test_nothing_is_promoted_unjudged(project: Project) -> None:
    """By hand as by the line: a verdict against what stands there, or a word in the log that there is none."""
    registry = Registry.open(project.environment)
    one, two, three = registry.versions("desk")
    never = say(project, "promote", "desk@v1", "--alias", "gated", "--why", "x", code=4)
    assert "desk@v1 was never judged against any" in never and "--unjudged" in never
    assert "desk@v1 was never judged: in the folder" in say(project, "judge", "desk@v1", code=4)

    good, better = scores(seed=2, right=0.6, worth=0.6), scores(seed=3, right=0.9, worth=0.8, loss=0.6)
    first = registry.judgements.record(Judgement.of(one, None, case(good), WIDE))
    assert ask(project, "promote", "desk@v1", "--alias", "gated", "--why", "first")["verdict"] == first
    (verdict,) = ask(project, "judge", "desk@v1")
    assert verdict["passed"] and verdict["again"] and verdict["verdict"] == first and verdict["rulings"]

    registry.judgements.record(Judgement.of(two, None, case(better), WIDE))
    other = say(project, "promote", "desk@v2", "--alias", "gated", "--why", "x", code=4)
    assert "desk@v2 was never judged against v1, which stands there now" in other, "its verdict was against none"
    second = registry.judgements.record(Judgement.of(two, 1, case(better, good), WIDE))
    late = say(project, "promote", "desk@v2", "--alias", "gated", "--why", "x", "--expect", "v3", code=8)
    assert "no longer names v3" in late
    assert ask(project, "promote", "desk@v2", "--alias", "gated", "--why", "better")["verdict"] == second

    registry.judgements.record(Judgement.of(three, 2, case(good, better), WIDE))
    refused = say(project, "promote", "desk@v3", "--alias", "gated", "--why", "x", code=4)
    assert "desk@v3 was refused: " in refused and "against champion" in refused
    shown = project("tuneline", "models", "judge", "desk@v3", code=1).stdout
    assert shown.startswith("desk@v3 against the base and v2: refused by ") and "  no\n" in shown


def test_a_verdict_that_this_code_would_not_make_is_told(project: Project) -> None:
    registry = Registry.open(project.environment)
    honest = Judgement.of(registry.read("desk", 3), None, case(BASE), WIDE)
    forged = honest.model_copy(update={"rulings": tuple(r for r in honest.rulings if r.passed)})
    registry.judgements.record(forged)
    done = project("tuneline", "models", "judge", "desk@v3", code=5)
    assert f"rules otherwise on the same scores than the one that judged (verdict {forged.digest[:16]})" in done.stderr


def test_damage_is_told(project: Project) -> None:
    whole = ask(project, "verify")
    assert (whole["ok"], whole["versions"], whole["blobs"]) == (True, 3, 4)
    assert "3 versions, 4 blobs, 0.0 MB read and hashed: all whole" in say(project, "verify", "desk")
    registry = Registry.open(project.environment)
    key = blobs.key(registry.read("desk", 2).files["merged/own"].sha256)
    registry.store.put(key, b"3")
    found = ask(project, "verify", "desk", code=5)
    assert [fault["suffer"] for fault in found["faults"]] == [["desk@v2"]]
    told = project("tuneline", "models", "verify", "desk@v2", code=5).stdout
    assert told.startswith(f"desk@v2: merged/own: its blob {registry.store.at(key)} was altered")
    assert "faults: 1" in told
    assert ask(project, "verify", "desk@v1")["ok"]
    registry.store.put(key, b"2")


def test_what_is_kept_and_what_goes(project: Project, tmp_path: Path) -> None:
    apart = {"TUNELINE_REGISTRY": project.environment["TUNELINE_REGISTRY"] + "/apart"}
    registry = Registry.open({**project.environment, **apart})
    for number in (1, 2, 3):
        publish(registry, tmp_path, number, "old")
    assert ask(project, "pin", "old@v1", "--why", "a customer", **apart)["changed"]
    assert "old@v1 is pinned already" in say(project, "pin", "old@v1", "--why", "a customer", **apart)
    assert [row["pinned"] for row in ask(project, "list", "old", **apart)] == [True, False, False]
    assert "is        pinned" in say(project, "show", "old@v1", **apart)

    planned = ask(project, "gc", "--keep", "1", **apart)
    assert (planned["deleted"], planned["versions"], planned["blobs"]) == (False, ["old@v2"], [])  # the blobs are young
    assert "would go: 1 versions, 1 blobs, 1 bytes" in say(project, "gc", "--keep", "1", "--grace", "0", **apart)
    assert len(registry.versions("old")) == 3
    assert "old@v1 is pinned no longer" in say(project, "pin", "old@v1", "--release", "--why", "over", **apart)

    gone = ask(project, "gc", "--keep", "1", "--grace", "0", "--delete", **apart)
    assert (gone["deleted"], gone["versions"], gone["bytes"]) == (True, ["old@v1", "old@v2"], 2)
    assert [row["reference"] for row in ask(project, "list", "old", **apart)] == ["old@v3"]
    assert "removed: 0 versions" in say(project, "gc", "--keep", "1", "--delete", **apart)
    assert {entry["action"] for entry in ask(project, "log", "old", **apart)} == {"publish", "retire", "pin", "release"}
    assert ask(project, "verify", **apart)["ok"]


def test_two_versions_are_compared(project: Project) -> None:
    found = ask(project, "diff", "desk@v1", "desk")
    assert (found["before"], found["after"]) == ("desk@v1", "desk@v3")
    assert found["record"]["data"]["rows"] == [100, 300]
    assert found["files"] == {"added": [], "removed": [], "changed": ["merged/own"], "bytes": 0}
    told = say(project, "diff", "desk@v1", "desk@v2").splitlines()
    assert [line.split()[0] for line in told] == [
        "desk@v1", "data.digest", "data.rows", "data.version", "git.commit", "params.train.rank",
        "metrics.merged.exact_match", "*", "+0",
    ]  # fmt: skip
    assert told[2].split(maxsplit=1)[1] == "100 -> 200  (+100)"
    assert len(say(project, "diff", "desk@v1", "desk@v1").splitlines()) == 2


def test_a_version_leaves_as_a_folder_on_s3_and_as_a_file(project: Project, tmp_path: Path) -> None:
    target = f"s3://flows/served/{tmp_path.name}"
    assert ask(project, "materialize", "desk@v2", target) == {
        "version": "desk@v2", "target": target, "copied": 2, "found": 0,
    }  # fmt: skip
    assert "0 files copied" in say(project, "materialize", "desk@v2", target)
    served = Store.open(target, project.environment)
    assert set(served.keys("")) == {"own", "shared", "tuneline.json"}
    assert "holds another version" in say(project, "materialize", "desk@v1", target, code=8)

    file = tmp_path / "desk.tar"
    assert ask(project, "export", "desk@v2", str(file))["bytes"] == file.stat().st_size
    assert "desk.tar exists: choose another name" in say(project, "export", "desk@v2", str(file), code=2)
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["desk-v2/version.json", "desk-v2/merged/own", "desk-v2/merged/shared"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["promote", "desk@v9", "--why", "x"], 2, "desk has no version v9; it has v1 to v3"),
        (["promote", "nobody", "--why", "x"], 2, "there is no model 'nobody'"),
        (["promote", "--unjudged", "desk@v1", "--alias", "latest", "--why", "x"], 2, "is no alias"),
        (["promote", "--unjudged", "desk@v2", "--why", " "], 2, "why"),
        (["promote", "desk@v1", "--why", "x", "--expect", "3"], 2, "write v3, or none"),
        (["rollback", "desk", "--alias", "staging", "--why", "x"], 2, "desk@staging names no version"),
        (["rollback", "nobody", "--why", "x"], 2, "there is no model 'nobody'"),
        (["show", "desk@staging"], 2, "desk has no alias 'staging'"),
        (["pin", "desk@v3", "--release", "--why", "x"], 2, "desk@v3 is not pinned"),
        (["gc", "--keep", "0"], 2, "the newest version of a model always stays"),
        (["gc", "--grace", "nan"], 2, "give the hours"),
        (["verify", "desk@v9"], 2, "desk has no version v9"),
        (["diff", "desk@v1", "desk@v9"], 2, "desk has no version v9"),
        (["materialize", "desk@v1", "/tmp/x"], 7, "is no address of a store"),
        (["export", "desk@v1", "params.yaml"], 2, "params.yaml exists"),
        (["log", "nobody"], 2, "there is no model 'nobody'"),
    ],
)
def test_a_mistake_is_one_message(project: Project, words: list[str], code: int, says: str) -> None:
    failed = say(project, *words, code=code)
    assert failed.strip().splitlines()[-1].startswith("error: ") and says in failed
