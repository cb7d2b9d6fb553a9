"""Scores drawn at random, and cases of them for the gate."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.core.rules import PromoteParams
from tasks.core.scores import Scores
from tasks.data.gate import Case, Facts

ROWS = 100
FACTS = Facts(train_rows=500, contaminated=0, formats=("nf4",))
WIDE = PromoteParams(margin=0.3)


def scores(
    rows: int = ROWS, seed: int = 0, *, right: float = 0.5, worth: float = 0.5, loss: float = 1.0, **more: Any
) -> Scores:
    draw = np.random.default_rng(seed)
    return Scores(
        evaluation=f"seed {seed}", ids=tuple(str(row) for row in range(rows)),
        slices=more.get("slices", {f"tag {tag}": tuple(range(tag, rows, 3)) for tag in range(3)}),
        suites=more.get("suites", {}), tokens=more.get("tokens", (9,) * rows),
        loss=tuple(draw.normal(loss, 0.3, rows).tolist()),
        metrics={
            "exact_match": tuple((draw.random(rows) < right).astype(float).tolist()),
            "chrf": tuple(np.clip(draw.normal(worth, 0.2, rows), 0, 1).tolist()),
        },
    )  # fmt: skip


BASE = scores(seed=1, right=0.1, worth=0.2, loss=2.0)


def case(candidate: Scores, champion: Scores | None = None, facts: Facts = FACTS, base: Scores = BASE) -> Case:
    return Case(facts=facts, candidate=candidate, base=base, champion=champion)
