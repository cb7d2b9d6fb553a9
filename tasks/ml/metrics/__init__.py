"""Metrics as local `evaluate` modules: one folder each, no hub. Each gives its mean under its own name, and `values`, one a row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import ParamsError


def known() -> list[str]:
    return sorted(folder.name for folder in Path(__file__).parent.iterdir() if (folder / f"{folder.name}.py").is_file())


def check(names: Sequence[str]) -> None:
    """ParamsError: a metric that is not there; the message lists those that are."""
    for name in names:
        if name not in known():
            raise ParamsError(f"evaluate.metrics: unknown metric {name!r}; known: {', '.join(known())}")


def compute(name: str, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """One value a row, in order."""
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    import evaluate

    metric: Any = evaluate.load(str(Path(__file__).parent / name), experiment_id=str(os.getpid()))
    return [float(value) for value in metric.compute(predictions=predictions, references=references)["values"]]
