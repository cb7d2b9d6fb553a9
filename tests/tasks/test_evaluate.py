"""One target evaluated: rows with their metrics, suites with their checks, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core import manifest
from tasks.core.errors import DataError, ParamsError
from tasks.core.params import Params
from tasks.core.sections import EvaluateParams
from tasks.data import chatset
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.ml import latency
from tasks.prepare import prepare
from tests import chat_server, tiny

LONG = {"prompt": "Write as much as you like.", "checks": [{"max_length": 10_000}], "category": "long"}
NEVER = {"prompt": "Say nothing of it.", "checks": [{"max_length": 9_000}, {"equals": "it"}], "language": "en"}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A training set beside its base."""
    folder = tmp_path_factory.mktemp("evaluate")
    params = Params.model_validate(tiny.params(tiny_base))
    fetch(params.fetch, out=folder / "base")
    tiny.make_raw(folder / "raw")
    prepare(params.prepare, raw=folder / "raw", base=folder / "base", out=folder / "chat", report=folder / "card")
    return folder / "chat"


def judge(chat: Path, folder: Path, out: Path, **asked: Any) -> manifest.Manifest:
    params = EvaluateParams.model_validate({"metrics": ["exact_match"], "max_new_tokens": 4, **asked})
    base = chat.parent / "base"
    return evaluate(params, target="base", chat=chat, base=base, model=base, suites=folder, out=out)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_item_is_answered_and_judged(chat: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(f"{json.dumps(LONG)}\n{json.dumps(NEVER)}\n")
    sealed = judge(chat, tmp_path, tmp_path / "out", suites=["own"], batch_size=2)
    found = {line["category"]: line for line in lines(tmp_path / "out/suites.jsonl")}
    assert (found["long"]["value"], found["checks"]["value"]) == (1, 0)
    assert found["checks"]["passed"] == [True, False]
    assert found["long"]["answer"] and found["checks"]["checks"] == NEVER["checks"]
    suite = json.loads((tmp_path / "out/metrics.json").read_text())["suites"]["own"]
    assert (suite["items"], suite["passed"]) == (2, 0.5)
    assert suite["categories"]["long, -"] == {"items": 1, "passed": 1}
    assert "suite/own" in sealed.inputs
    again = judge(chat, tmp_path, tmp_path / "again", suites=["own"], batch_size=1)
    assert again.inputs == sealed.inputs
    assert lines(tmp_path / "again/suites.jsonl") == lines(tmp_path / "out/suites.jsonl"), "batches change nothing"


def test_without_suites_there_are_no_outcomes(chat: Path, tmp_path: Path) -> None:
    judge(chat, tmp_path, tmp_path / "out", metrics=["json_fields", "function_call", "macro_f1", "bleu"])
    assert lines(tmp_path / "out/suites.jsonl") == []
    measured = json.loads((tmp_path / "out/metrics.json").read_text())
    assert measured["suites"] == {} and measured["metrics"]["json_fields"] == 0, "random words are no JSON"
    assert {len(row["metrics"]) for row in lines(tmp_path / "out/rows.jsonl")} == {4}


def test_what_a_user_waits_for_is_measured_on_some_rows(chat: Path, tmp_path: Path) -> None:
    judge(chat, tmp_path, tmp_path / "out", max_new_tokens=16, latency_rows=3)
    waits = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 0 < waits["first_token_seconds"] <= waits["first_token_seconds_p95"]
    assert waits["first_token_seconds"] < waits["request_seconds"] <= waits["request_seconds_p95"]
    judge(chat, tmp_path, tmp_path / "none", latency_rows=0)
    assert json.loads((tmp_path / "none/metrics.json").read_text())["request_seconds"] is None


def test_the_rows_asked_alone_are_always_the_same(chat: Path) -> None:
    examples = chatset.read(chat / "test.parquet")
    chosen = {examples[place].id for place in latency.sample(examples, 4)}
    backwards = examples[::-1]
    assert {backwards[place].id for place in latency.sample(backwards, 4)} == chosen and len(chosen) == 4
    others = [example for example in examples if example.id not in chosen]
    assert {examples[place].id for place in latency.sample(examples, len(others) + 4)} == {e.id for e in examples}
    fewer = [example for example in examples if example.id in chosen or example in others[:3]]
    assert {fewer[place].id for place in latency.sample(fewer, 4)} == chosen
    lengths = [len(examples[place].ids) for place in latency.sample(examples, 4)]
    assert lengths == sorted(lengths)


def test_a_judge_is_one_more_metric(chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked with the whole conversation; here it likes the reference, but for one row where it always says A."""
    monkeypatch.setenv("TUNELINE_WORK", str(tmp_path / "work"))
    examples = chatset.read(chat / "test.parquet")
    odd = examples[0].conversation[-2].text

    def prefers(question: str) -> str:
        return "A" if odd in question or '{"' in chat_server.answers(question)[0] else "B"

    with chat_server.serving(prefers) as peer:
        asked = {"metrics": ["exact_match", "judge"], "judge": {"url": peer.url, "model": "m"}}
        judge(chat, tmp_path, tmp_path / "out", **asked)
        assert len(peer.heard) == 2 * len(examples)
        judge(chat, tmp_path, tmp_path / "again", **asked, latency_rows=0)
        assert len(peer.heard) == 2 * len(examples)
    rows = lines(tmp_path / "out/rows.jsonl")
    assert [row["metrics"]["judge"] for row in rows] == [0.5] + [0] * (len(rows) - 1)
    measured = json.loads((tmp_path / "out/metrics.json").read_text())
    assert measured["metrics"]["judge"] == pytest.approx(0.5 / len(rows))
    bias = 1 / len(rows)
    assert measured["judge"] == {
        "model": "m", "position_bias": bias, "asked": len(rows), "unread": 0, "contradicted": 1,
    }  # fmt: skip
    assert all(f"user: {row['prompt'][-1]['content']}" in "".join(peer.questions) for row in rows)
    with pytest.raises(ParamsError, match=r"evaluate\.judge\.model"):
        judge(chat, tmp_path, tmp_path / "none", metrics=["judge"], judge={"url": peer.url})
    assert not (tmp_path / "none").exists()


def test_what_is_wrong_is_said_before_anything_is_made(chat: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"own.jsonl:1: checks: Field required"):
        judge(chat, tmp_path, tmp_path / "out", suites=["own"])
    with pytest.raises(ParamsError, match="suites there: own"):
        judge(chat, tmp_path, tmp_path / "out", suites=["other"])
    with pytest.raises(ParamsError, match="there is no module nobody"):
        judge(chat, tmp_path, tmp_path / "out", metrics=["nobody:one"])
    assert not (tmp_path / "out").exists()
