"""Labels, macro-F1 row by row, and the confusion table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tasks.data import classes

LABELS = ("spam", "ham", "eggs", "none of them")
rows = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS[:3])), min_size=1, max_size=40)
texts = st.text(st.characters(codec="utf-8"), max_size=12)


@given(texts)
def test_a_label_is_its_own(text: str) -> None:
    assert classes.label(classes.label(text)) == classes.label(text)


@pytest.mark.parametrize("text", ["spam", " Spam.", '"SPAM"', "**spam**", "ｓｐａｍ\n", "„Spam“"])
def test_case_quotes_and_stops_are_aside(text: str) -> None:
    assert classes.label(text) == "spam"


@given(rows)
def test_the_mean_of_the_values_is_macro_f1(pairs: list[tuple[str, str]]) -> None:
    """Against scikit-learn, over the labels that the references have."""
    answers, references = (list(side) for side in zip(*pairs, strict=True))
    values = classes.macro_f1(answers, references)
    known = sorted({*references})
    wanted = f1_score(references, answers, labels=known, average="macro", zero_division=0)
    assert np.mean(values) == pytest.approx(wanted, abs=1e-12)


def test_the_spread_of_the_values_is_that_of_macro_f1() -> None:
    """Drawing rows again and computing macro-F1 anew spreads as the mean of the values does."""
    draw = np.random.default_rng(7)
    references = draw.choice(LABELS[:3], 600, p=[0.7, 0.2, 0.1])
    answers = np.where(draw.random(600) < 0.7, references, draw.choice(LABELS, 600))
    values = classes.macro_f1(list(answers), list(references))
    again = [
        f1_score(references[rows], answers[rows], labels=list(LABELS[:3]), average="macro", zero_division=0)
        for rows in (draw.integers(0, 600, 600) for _ in range(400))
    ]
    assert np.std(values) / np.sqrt(600) == pytest.approx(np.std(again), rel=0.15)


@given(rows, st.integers(1, 4))
def test_the_confusion_table_counts_every_row(pairs: list[tuple[str, str]], most: int) -> None:
    answers, references = (list(side) for side in zip(*pairs, strict=True))
    names, counts = classes.confusion(answers, references, most)
    assert len(names) == len(counts) == min(most, len({*references})) + 1
    assert sum(map(sum, counts)) == len(pairs)
    for name, row in zip(names[:-1], counts, strict=False):
        assert sum(row) == references.count(name)
        assert row[names.index(name)] == sum(a == r == name for a, r in pairs)
