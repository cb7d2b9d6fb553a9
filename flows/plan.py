"""What a run would do, without doing it: each stage, whether it would run, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flows import continuing, preflight
from flows.workspace import workspace
from tasks.core.params import Params
from tasks.storage.versions import Change


def plan(checkout: Path, chosen: Params) -> list[dict[str, Any]]:
    """One entry a stage, in order: `stage`, `does` (`runs` or `cached`), `why`. Outputs in the cache are linked to see on."""
    preflight.check(chosen)
    chosen = continuing.pin(chosen, checkout)
    rows: list[dict[str, Any]] = []
    with workspace(checkout, f"plan-{os.getpid()}", chosen) as run:
        running: set[str] = set()
        for stage in run.pipeline.stages:
            behind = [need for need in stage.needs if need in running]
            change = Change.RUN if behind else run.change(stage.name)
            if change is Change.RESTORE:
                run.pipeline.reproduce(stage.name)
            if change is not Change.RUN:
                rows.append({"stage": stage.name, "does": "cached", "why": []})
                continue
            running.add(stage.name)
            why = [f"{need} runs" for need in behind] or _own(run.pipeline.reasons(stage.name))
            rows.append({"stage": stage.name, "does": "runs", "why": why})
    return rows


def _own(reasons: list[str]) -> list[str]:
    """A fresh workspace holds no outputs, so that they are missing says nothing unless nothing else is to say."""
    said = [reason for reason in reasons if not reason.startswith("deleted ")]
    return said or ["its output is not in the cache"]
