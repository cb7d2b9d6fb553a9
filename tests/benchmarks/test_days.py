"""The spoilt arrival is spoilt in every row."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from benchmarks.days import shuffled
from tests.project import ROOT


def test_no_ticket_keeps_its_record_and_no_record_is_lost() -> None:
    lines = (ROOT / "data/sample/day3.jsonl").read_text(encoding="utf-8").splitlines()
    good: list[dict[str, Any]] = [json.loads(line) for line in lines]
    answers = {row["messages"][1]["content"]: row["messages"][2]["content"] for row in good}
    spoilt: list[dict[str, Any]] = [json.loads(line) for line in shuffled(lines)]
    assert len(spoilt) == len(good) and not {row["id"] for row in spoilt} & {row["id"] for row in good}
    assert all(answers[row["messages"][1]["content"]] != row["messages"][2]["content"] for row in spoilt)
    assert Counter(row["messages"][2]["content"] for row in spoilt) == Counter(answers.values())
