"""Tasks of lm-evaluation-harness as suites: asked as the model is served, judged by the harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.data.rows import Message
from tasks.data.tokens import ChatTokenizer
from tasks.ml import asked, harness, loading, serving
from tasks.ml.tuned import Runner

pytest.importorskip("lm_eval", reason="pip install 'tuneline[lmeval]'")

QUESTIONS = [("Say one.", ["one", "two", "a long answer"], 0), ("Say two.", ["no", "two"], 1), ("And?", ["b", "a"], 0)]
CHOICES = {
    "task": "own", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
    "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}", "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
WRITTEN = {
    **CHOICES, "output_type": "generate_until", "doc_to_target": "{{choices[gold]}}", "doc_to_choice": None,
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}, "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip


def write(folder: Path, task: dict[str, Any]) -> Path:
    rows = (json.dumps({"q": q, "choices": choices, "gold": gold}) + "\n" for q, choices, gold in QUESTIONS)
    (folder / "rows.jsonl").write_text("".join(rows))
    data = {"dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}}
    file = harness.path(folder, "own")
    file.write_text(json.dumps({**data, **{key: value for key, value in task.items() if value is not None}}))
    return file


@pytest.fixture(scope="module")
def served(tiny_base: Path) -> tuple[serving.Served, ChatTokenizer, Any]:
    model = loading.load(tiny_base, torch.float32)
    return serving.by_transformers(Runner.of(model)), ChatTokenizer(tiny_base), model


def by_hand(tokenizer: ChatTokenizer, model: Any, question: str, answer: str) -> float:
    """Log-likelihood in float64 of the tokens after the prompt, one forward pass over the whole."""
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    ids, opening = tokenizer.encode(turns).ids, len(tokenizer.prompt(turns))
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    last = max(place for place, token in enumerate(ids) if token in tokenizer.ends)
    return sum(logs[place - 1, ids[place]].item() for place in range(opening, last + 1))


def test_the_likeliest_choice_is_the_answer(served: Any, tmp_path: Path) -> None:
    serve, tokenizer, model = served
    found = harness.outcomes(write(tmp_path, CHOICES), serve, tokenizer, EvaluateParams())
    assert [outcome.prompt for outcome in found] == [question for question, _, _ in QUESTIONS]
    for outcome, (question, choices, gold) in zip(found, QUESTIONS, strict=True):
        likely = [by_hand(tokenizer, model, question, choice) for choice in choices]
        assert [float(text) for text in outcome.answer.split("\n")] == pytest.approx(likely, abs=2e-3)
        assert outcome.value == float(max(likely) == likely[gold])
    assert len({outcome.id for outcome in found}) == 3
    assert harness.outcomes(tmp_path / "own.yaml", serve, tokenizer, EvaluateParams()) == found


def test_generated_answers_end_where_the_task_says(served: Any, tmp_path: Path) -> None:
    serve, tokenizer, _ = served
    found = harness.outcomes(write(tmp_path, WRITTEN), serve, tokenizer, EvaluateParams(max_new_tokens=4))
    assert len(found) == 3
    assert all("\n" not in outcome.answer and outcome.category == "exact_match" for outcome in found)


def test_a_task_is_read_where_it_stands_among_the_suites(tmp_path: Path) -> None:
    file = write(tmp_path, CHOICES)
    read = asked.read(EvaluateParams(suites=("own",)), tmp_path)
    assert read == {"own": file}
    assert asked.digests(tmp_path, read).keys() == {"suite/own"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "other"}, "task is 'other'; expected own"),
        ({"dataset_path": "org/set"}, "dataset_path is 'org/set'; expected json or csv"),
        ({"output_type": "loglikelihood_rolling"}, "output_type is 'loglikelihood_rolling'; expected multiple_choice"),
        ({"dataset_kwargs": {"data_files": "none.jsonl"}}, "names none.jsonl, which is not there"),
        ({"dataset_kwargs": {}}, "data_files names no file"),
    ],
)
def test_a_task_that_would_fetch_or_has_no_data_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        harness.check(write(tmp_path, {**CHOICES, **change}))


def test_functions_are_not_run_to_look_at_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, CHOICES)
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in json.loads(file.read_text()).items())
    file.write_text(f"{lines}process_results: !function canary.run\n")
    (tmp_path / "canary.py").write_text("raise SystemExit('run')\n")
    harness.check(file)
    file.write_text("task: [")
    with pytest.raises(ParamsError, match="is not YAML"):
        harness.check(file)
