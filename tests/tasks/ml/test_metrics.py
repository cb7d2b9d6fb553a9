"""Metrics: laws, and the published implementations behind them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.data.report.columns import METRICS
from tasks.ml import metrics
from tasks.ml.metrics.token_f1.token_f1 import f1

texts = st.text(st.characters(codec="utf-8"), max_size=30)

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": [1, 2]}}\n</tool_call>'
WORDS = ['{"a": "one two"}', "three four five six", "x y z"], ["QQQQ WWWW", "RRRR TTTT", "ZZZZ"]
JSON = ['{"a": "one two"}', '{"b": {"c": [1]}, "d": null}', "[]"], ["QQQQ", "{", '{"a": 1} {"b": 2}']
CASES: dict[str, tuple[list[str], list[str]]] = {
    "json_valid": JSON,
    "json_fields": (JSON[0][:2], JSON[1][:2]),
    "function_call": ([CALL, '{"name": "look", "parameters": {}}'], ["I can't.", '{"name": "find", "parameters": {}}']),
}
"""Equal answers and foreign ones, where words alone won't do."""
NAMES = [
    "accuracy", "bertscore", "bleu", "chrf", "exact_match", "function_call", "json_fields", "json_valid", "judge",
    "macro_f1",    "rouge_1", "rouge_2", "rouge_l", "token_f1",
]  # fmt: skip
TEXT_ALONE = [name for name in NAMES if name not in ("bertscore", "judge")]
"""What needs no other model; tests/tasks/ml/test_bertscore.py and tests/tasks/storage/test_judging.py have the others."""


def test_every_metric_is_1_for_equal_answers_and_0_for_foreign_ones() -> None:
    assert metrics.known() == NAMES
    for name in TEXT_ALONE:
        same, other = CASES.get(name, WORDS)
        assert metrics.compute(name, same, same) == pytest.approx([1] * len(same)), name
        assert metrics.compute(name, other, same) == pytest.approx([0] * len(same)), name


def test_one_value_a_row_in_order() -> None:
    assert metrics.compute("exact_match", ["a", " b\n", "c"], ["a", "b", "d"]) == [1, 1, 0]
    assert metrics.compute("rouge_l", ["the cat sat", "dog"], ["the cat sat on it", "cat"]) == pytest.approx([0.75, 0])
    assert metrics.compute("rouge_1", ["on the cat", "dog"], ["the cat sat on it", "cat"]) == pytest.approx([0.75, 0])
    assert metrics.compute("rouge_2", ["on the cat", "dog"], ["the cat sat on it", "dog"]) == pytest.approx([1 / 3, 0])
    assert metrics.compute("accuracy", [' "Spam". ', "ham", "HAM"], ["spam", "spam", "ham"]) == [1, 0, 1]


@pytest.mark.parametrize("name", [name for name in TEXT_ALONE if name not in CASES and name != "macro_f1"])
def test_an_empty_answer_has_a_value(name: str) -> None:
    same = 0 if name == "rouge_2" else 1  # one word holds no pair
    assert metrics.compute(name, ["", "a"], ["a", "a"]) == pytest.approx([0, same])


@pytest.mark.parametrize("name", CASES)
def test_an_empty_answer_is_neither_json_nor_a_call(name: str) -> None:
    none = {"json_valid": [0, None], "json_fields": [0, None], "function_call": [1, 0]}
    assert metrics.compute(name, ["", ""], ['{"a": 1}', CALL]) == none[name]


def test_bleu_is_that_of_its_definition() -> None:
    """Papineni's geometric mean of clipped precisions and the brevity penalty, by hand."""
    ours, wanted = "the cat sat on the mat", "the cat sat on a red mat"
    precisions = 5 / 6 * 3 / 5 * 2 / 4 * 1 / 3
    by_hand = 2.718281828459045 ** (1 - 7 / 6) * precisions**0.25
    assert metrics.compute("bleu", [ours, "the cat", ""], [wanted, "the cat", "a"]) == pytest.approx([by_hand, 1, 0])
    assert BLEU(effective_order=True).sentence_score(ours, [wanted]).score / 100 == pytest.approx(by_hand)


@settings(max_examples=200)
@given(texts, texts)
def test_token_f1_is_symmetric_and_bounded(left: str, right: str) -> None:
    assert f1(left, right) == f1(right, left)
    assert 0 <= f1(left, right) <= 1
    assert f1(left, left) == 1


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(ParamsError, match=r"unknown metric 'blue'; known: accuracy, bertscore, .*module:function"):
        metrics.check(EvaluateParams(metrics=("chrf", "blue")))


def test_the_table_in_the_docs_has_every_metric_and_the_report_a_label_for_it() -> None:
    table = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8").partition("## Suites")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == metrics.known()
    assert sorted(METRICS) == metrics.known()
