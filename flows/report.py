"""What a run shows in the Prefect UI: one live chart and one progress bar a training, then table, samples and card."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.core import layout
from tasks.data.report.comparison import read_comparison
from tasks.data.report.tables import as_markdown
from tasks.storage.registry import Published

EVERY_SECONDS = 3.0
POINTS = 40
"""Points of the live chart; mermaid draws no more in a legible way."""


class Progress:
    """The live side of one stage: a progress bar, and for training the loss so far as a chart."""

    def __init__(self, stage: str) -> None:
        self._stage, self._key = stage, "progress-" + stage.replace("@", "-").replace("_", "-")
        self._bar: Any = None
        self._chart: Any = None
        self._losses: list[tuple[int, float]] = []
        self._last = 0.0

    def show(self, event: Mapping[str, Any]) -> None:
        """Take in one progress event; the server hears of it at most every few seconds, and of the last one."""
        if "loss" in event:
            self._losses.append((event["done"], event["loss"]))
        final = event["done"] >= event["total"]
        if not final and time.monotonic() - self._last < EVERY_SECONDS:
            return
        self._last = time.monotonic()
        self._update_bar(100.0 * event["done"] / max(event["total"], 1), event["what"])
        if self._losses:
            self._update_chart(event)

    def _update_bar(self, percent: float, what: str) -> None:
        if self._bar is None:
            self._bar = create_progress_artifact(percent, key=self._key, description=f"{self._stage}: {what}")
        else:
            update_progress_artifact(self._bar, percent)

    def _update_chart(self, event: Mapping[str, Any]) -> None:
        text = loss_chart(self._losses, event)
        if self._chart is None:
            self._chart = create_markdown_artifact(text, key="training-loss", description="Training loss, live")
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._chart, ArtifactUpdate(data=text))


def loss_chart(losses: list[tuple[int, float]], event: Mapping[str, Any]) -> str:
    """The losses so far as a mermaid chart, thinned to what is legible, with the newest figures below."""
    every = -(-len(losses) // POINTS)
    shown = losses[every - 1 :: every] or losses
    steps = ", ".join(str(step) for step, _ in shown)
    values = ", ".join(f"{loss:.4f}" for _, loss in shown)
    figures = " · ".join(
        f"{name.replace('_per_', '/').replace('_', ' ')} {value:.4g}"
        for name, value in event.items()
        if isinstance(value, float | int) and name not in ("at", "done", "total", "step")
    )
    return (
        f"### Step {event['done']} of {event['total']}\n\n{figures}\n\n"
        f'```mermaid\nxychart-beta\n  title "Loss per answer token"\n  x-axis "optimizer step" [{steps}]\n'
        f'  y-axis "loss"\n  line [{values}]\n```\n'
    )


def show_results(workspace: Path, published: Published, uri: str) -> None:
    """Comparison, samples and model card of a finished run as artifacts."""
    folder = workspace / layout.RUN_REPORT
    comparison = read_comparison(folder)
    create_markdown_artifact(
        as_markdown(comparison), key="comparison", description="Base against tuned against quantised"
    )
    create_table_artifact(_samples(folder), key="samples", description="Answers on test rows")
    create_markdown_artifact(
        (folder / "README.md").read_text(encoding="utf-8"), key="model-card", description="Model card"
    )
    state = "registered" if published.created else "already registered; nothing was written"
    create_markdown_artifact(
        f"**{published.version.reference}** {state}\n\n`{uri}`\n\n"
        f"Bytes sent: {published.uploaded_bytes:,}; already there: {published.reused_bytes:,}\n\n"
        f"The full report: `tuneline models pull {published.version.reference} --part report --to report`",
        key="version", description="The version in the registry",
    )  # fmt: skip


def _samples(folder: Path) -> list[dict[str, Any]]:
    """One row a sample: the last user turn, the reference, and each target's answer."""
    samples: list[dict[str, Any]] = json.loads((folder / "samples.json").read_bytes())
    return [
        {
            "ticket": sample["prompt"][-1]["content"], "reference": sample["reference"],
            **{answer["target"]: answer["prediction"] for answer in sample["answers"]},
        }
        for sample in samples
    ]  # fmt: skip
