"""What dvc.lock names is linked from the cache, as far as both have it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tasks.storage.versions import Change, Pipeline

STAGES = {
    "first": {"cmd": "mkdir first && cp rows first/a && echo 2 > first/b", "deps": ["rows"], "outs": ["first"]},
    "second": {"cmd": "cp -r first second", "deps": ["first"], "outs": ["second"]},
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A pipeline whose stages have run, and whose outputs do not lie there any more."""
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    (tmp_path / "rows").write_text("1\n")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    for name in STAGES:
        Pipeline(tmp_path).reproduce(name)
        assert (tmp_path / name / "b").is_file()
    for name in STAGES:
        shutil.rmtree(tmp_path / name)
    return tmp_path


def changes(root: Path) -> list[Change]:
    return [Pipeline(root).change(name) for name in STAGES]


def test_all_come_back_at_once(made: Path) -> None:
    assert changes(made)[0] is Change.RESTORE
    Pipeline(made).checkout_outputs(missing_ok=True)
    assert changes(made) == [Change.NONE, Change.NONE]
    assert (made / "second" / "b").read_text() == "2\n"


@pytest.mark.parametrize("lost", ["folder", "file"])
def test_what_the_cache_lacks_is_left_to_its_stage_and_never_there_in_part(made: Path, lost: str) -> None:
    digest = yaml.safe_load((made / "dvc.lock").read_text())["stages"]["first"]["outs"][0]["md5"]
    cache = made / ".dvc" / "cache" / "files" / "md5"
    files = {each.read_bytes(): each for each in cache.rglob("*") if each.is_file()}
    gone = cache / digest[:2] / digest[2:] if lost == "folder" else files[b"2\n"]
    gone.unlink()
    Pipeline(made).checkout_outputs(missing_ok=True)
    assert not (made / "first").exists()
    assert changes(made)[0] is Change.RUN


@pytest.mark.parametrize("recorded", [[], ["first"]])
def test_what_was_never_recorded_is_passed_by(
    made: Path, recorded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    lock = yaml.safe_load((made / "dvc.lock").read_text())
    stages = {name: lock["stages"][name] for name in recorded}
    (made / "dvc.lock").write_text(yaml.safe_dump({**lock, "stages": stages}))
    Pipeline(made).checkout_outputs(missing_ok=True)
    assert [name for name in STAGES if (made / name).exists()] == recorded
    assert not caplog.records, "DVC has nothing to warn of"
    assert Pipeline(made).unchanged() == frozenset(recorded)


def test_what_needs_a_changed_stage_is_not_known_to_be_unchanged(made: Path) -> None:
    pipeline = Pipeline(made)
    assert pipeline.unchanged() == frozenset()
    pipeline.checkout_outputs()
    assert pipeline.unchanged() == frozenset(STAGES)
    (made / "rows").write_text("3\n")
    assert changes(made) == [Change.RUN, Change.NONE]
    assert pipeline.unchanged() == frozenset()
