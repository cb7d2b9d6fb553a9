"""A peer that is installed prepares the very tokens of the chat template; one that is not says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measuring import checkout
from benchmarks.measuring.child import Failure, Run, measure
from benchmarks.peers import task
from benchmarks.peers.peer import HERE as SCRIPTS
from benchmarks.peers.peer import LLAMA_FACTORY, PEERS, PREPARE, TRL, Peer
from benchmarks.peers.task import Task
from tests import tiny

BASE = Path(__file__).parents[2] / "models" / "base"
ROWS = 60


def asked(folder: Path, base: Path = BASE) -> Task:
    return Task(folder / "rows.jsonl", base, 512, 2, folder / "out")


# ---- a peer that is not there


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.variable)
def test_a_missing_peer_is_left_out_with_the_reason(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(peer.variable, raising=False)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    outcome = measure(peer.trains(tmp_path / "lesson.json", tmp_path / "out", {}))
    assert isinstance(outcome, Failure)
    assert f"make peers, or let {peer.variable} name a Python" in outcome.reason
    monkeypatch.setenv(peer.variable, str(tmp_path / "no python"))
    outcome = measure(peer.prepares(asked(tmp_path)))
    assert isinstance(outcome, Failure)
    assert "no python, which can't be run" in outcome.reason


def test_what_make_peers_has_made_is_found_and_the_variable_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRL.variable, raising=False)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    made = tmp_path / ".peers" / "trl" / "bin" / "python"
    assert TRL.absent()
    made.parent.mkdir(parents=True)
    made.symlink_to(sys.executable)
    assert (TRL.python, TRL.absent()) == (str(made), "")
    monkeypatch.setenv(TRL.variable, sys.executable)
    assert TRL.python == sys.executable


def test_a_python_without_the_peer_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LLAMA_FACTORY.variable, sys.executable)
    outcome = measure(LLAMA_FACTORY.prepares(asked(tmp_path)))
    assert outcome == Failure("exit code 1: ModuleNotFoundError: No module named 'llamafactory'")


def test_a_folder_of_an_earlier_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    argv = [sys.executable, str(SCRIPTS / "trl_prepare.py"), "rows.jsonl", "base", "512", "2", str(tmp_path / "out")]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "out exists: name a new folder" in found.stderr


# ---- counting


@given(st.lists(st.lists(st.lists(st.integers(-2, 2)), min_size=1), min_size=1))
def test_every_number_in_the_files_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    names = [{"filename": str(_stream(folder / str(number), lists))} for number, lists in enumerate(files)]
    found = sum(task.other_than(batch.column("labels"), -1) for batch in task.batches(names))
    assert found == sum(number != -1 for lists in files for numbers in lists for number in numbers)


def _stream(file: Path, lists: list[list[int]]) -> Path:
    batch = pa.record_batch({"labels": pa.array(lists, pa.list_(pa.int64()))})
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch.slice(0, 1))
        stream.write_batch(batch.slice(1))
    return file


# ---- a peer that is there


@pytest.mark.slow
@pytest.mark.parametrize("peer", PREPARE, ids=lambda peer: peer.variable)
def test_the_peers_tokens_are_those_of_the_chat_template(peer: Peer, tmp_path: Path) -> None:
    if reason := peer.absent():
        pytest.skip(reason)
    base = tiny.make_base(tmp_path / "base")
    tiny.write_rows(tmp_path / "rows.jsonl", ROWS)
    outcome = measure(peer.prepares(asked(tmp_path, base)))
    assert isinstance(outcome, Run), outcome
    tokens, answers = _reference(tmp_path / "rows.jsonl", base)
    assert (outcome.result["rows"], outcome.result["tokens"]) == (ROWS, tokens)
    # LLaMA-Factory learns the line break after the end of a turn, too.
    assert outcome.result["loss_tokens"] == answers + (ROWS if peer is LLAMA_FACTORY else 0)


def _reference(file: Path, base: Path) -> tuple[int, int]:
    """Tokens of all rows, and of their one answer with the end of its turn."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    rows = [json.loads(line)["messages"] for line in file.read_text(encoding="utf-8").splitlines()]
    whole = [len(tokenizer.apply_chat_template(row, return_dict=False)) for row in rows]
    asked = [
        len(tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True, return_dict=False)) for row in rows
    ]
    end = len(tokenizer.encode("\n"))
    return sum(whole), sum(whole) - sum(asked) - end * len(rows)
