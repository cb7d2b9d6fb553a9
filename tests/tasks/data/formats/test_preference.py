"""Rows for preference methods are kept apart."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.data.formats.spellings import A, Q, messages, to_row, turns, unfit


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"}, {"chosen": [Q, A], "rejected": [Q, A]},
        messages(Q, A, label=True), messages(Q, A, label=False), {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": "False"}, turns(("human", "q"), ("gpt", "a"), label=False),
        {"instruction": "q", "output": "a", "kto_tag": True},
    ],
)  # fmt: skip
def test_a_preference_row_is_never_trained_on(value: dict[str, Any]) -> None:
    assert unfit(value)[0] == "preference row"


def test_a_label_that_is_no_verdict_is_another_column() -> None:
    assert to_row({"prompt": "q", "completion": "a", "label": "positive"})
    assert to_row({"prompt": "q", "completion": "a", "label": None})
