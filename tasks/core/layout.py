"""Where everything lies in a workspace, relative to its root. dvc.yaml spells the same paths; a test compares them."""

from __future__ import annotations

import os
from pathlib import Path

RAW = Path("data/raw")
SUITES = Path("data/suites")
BASE = Path("models/base")
CHAT = Path("data/chat")
ADAPTER = Path("models/adapter")
MERGED = Path("models/merged")
DATA_REPORT = Path("reports/data")
TRAIN_REPORT = Path("reports/train")
EVALUATIONS = Path("reports/evaluate")
VERDICTS = Path("reports/verdicts")
RUN_REPORT = Path("reports/run")

HOME = Path(".tuneline")
"""Embedded services, their credentials and logs, and run workspaces. Ignored by git."""
METRICS = HOME / "metrics"


def model(target: str) -> Path:
    """The adapter, the merged model or a format."""
    return Path("models") / target


def evaluation(target: str) -> Path:
    return EVALUATIONS / target


def work() -> Path:
    """Scratch that outlives a run: checkpoints. `TUNELINE_WORK` lets every workspace share one."""
    return Path(os.environ.get("TUNELINE_WORK", ".work")).absolute()


def checkpoints(key: str) -> Path:
    """The checkpoints of one piece of work; `key` digests the step's inputs and params, so that
    a retry resumes and a changed input never does."""
    return work() / "checkpoints" / key[:16]
