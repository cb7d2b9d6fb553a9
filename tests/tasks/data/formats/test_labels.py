"""What a row says beside its conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.data.formats.spellings import EXAMPLES, to_row, unfit


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"id": "x"}, {"id": "x"}), ({"id": 7}, {"id": "7"}), ({"source": "wiki"}, {"source": "wiki"}),
        ({"source": ""}, {"source": "landed"}), ({"weight": 2}, {"weight": 2.0}), ({"weight": "0.5"}, {"weight": 0.5}),
        ({"weight": ""}, {"weight": 1.0}), ({"tags": ["a", "b"]}, {"tags": ("a", "b")}), ({"tag": "a"}, {"tags": ("a",)}),
        ({"tags": "a", "tag": None}, {"tags": ("a",)}), ({"category": "x", "score": 3}, {"tags": ()}),
    ],
)  # fmt: skip
def test_labels_are_taken(labels: dict[str, Any], expected: dict[str, Any]) -> None:
    row = to_row({**EXAMPLES["alpaca"], **labels})
    assert {key: getattr(row, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ({"id": 1.5}, "wrong type"), ({"id": True}, "wrong type"), ({"id": ["x"]}, "wrong type"),
        ({"id": "\x00"}, "control character"), ({"source": 7}, "wrong type"), ({"weight": "much"}, "wrong type"),
        ({"weight": True}, "wrong type"), ({"weight": 0}, "out of range"), ({"weight": 101}, "out of range"),
        ({"weight": "nan"}, "out of range"), ({"weight": 10**400}, "wrong type"), ({"tags": [7]}, "wrong type"),
        ({"tags": {"a": 1}}, "wrong type"), ({"tag": "\ud800"}, "control character"),
    ],
)  # fmt: skip
def test_labels_that_are_wrong_are_not_overlooked(labels: dict[str, Any], kind: str) -> None:
    assert unfit({**EXAMPLES["alpaca"], **labels})[0] == kind
