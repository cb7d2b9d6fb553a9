"""What a run shows in the Prefect UI: one live chart and one progress bar a training, then table, samples and card."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
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
from tasks.core.verdict import Ruling, Verdict
from tasks.data import verdicts
from tasks.data.report import charts, rulings
from tasks.data.report.comparison import read_comparison
from tasks.data.report.tables import as_markdown, escape
from tasks.data.report.training import History, Point
from tasks.storage.registry import Published

EVERY_SECONDS = 5.0


class Progress:
    """The live side of one stage: a progress bar, and for training the loss so far as a chart."""

    def __init__(self, stage: str) -> None:
        self._stage, self._key = stage, "progress-" + stage.replace("@", "-").replace("_", "-")
        self._bar: Any = None
        self._chart: Any = None
        self._train: list[Point] = []
        self._valid: list[Point] = []
        self._last = 0.0

    def show(self, event: Mapping[str, Any]) -> None:
        """Take in one progress event; the server hears of it at most every few seconds, and of the last one."""
        if "loss" in event:
            self._train.append(Point(step=event["done"], loss=event["loss"]))
            if not self._valid or event["valid_loss"] != self._valid[-1].loss:
                self._valid.append(Point(step=event["done"] if self._valid else 0, loss=event["valid_loss"]))
        final = event["done"] >= event["total"]
        if not final and time.monotonic() - self._last < EVERY_SECONDS:
            return
        self._last = time.monotonic()
        self._update_bar(100.0 * event["done"] / max(event["total"], 1), event["what"])
        if self._train:
            self._update_chart(event)

    def _update_bar(self, percent: float, what: str) -> None:
        if self._bar is None:
            self._bar = create_progress_artifact(percent, key=self._key, description=f"{self._stage}: {what}")
        else:
            update_progress_artifact(self._bar, percent)

    def _update_chart(self, event: Mapping[str, Any]) -> None:
        text = loss_chart(self._train, self._valid, event)
        if self._chart is None:
            self._chart = create_markdown_artifact(text, key="training-loss", description="Training loss, live")
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._chart, ArtifactUpdate(data=text))


def loss_chart(train: list[Point], valid: list[Point], event: Mapping[str, Any]) -> str:
    """The curves so far as an image inside Markdown, the newest figures above it."""
    figures = " · ".join(
        f"{name.replace('_per_', '/').replace('_', ' ')} {value:.4g}"
        for name, value in event.items()
        if isinstance(value, float | int) and name not in ("at", "done", "total")
    )
    image = charts.as_image(charts.loss_curves(History(tuple(train), tuple(valid))))
    return f"### Step {event['done']} of {event['total']}\n\n{figures}\n\n![Loss over optimizer steps]({image})\n"


def show_results(workspace: Path, published: Published, uri: str, gate: Sequence[Ruling]) -> None:
    """Comparison, verdicts, samples and model card of a finished run as artifacts."""
    folder = workspace / layout.RUN_REPORT
    comparison = read_comparison(folder)
    create_markdown_artifact(
        as_markdown(comparison), key="comparison", description="Base against tuned against quantised"
    )
    if given := verdicts.read(workspace / layout.VERDICTS):
        create_table_artifact(_verdicts(given), key="verdicts", description="Formats against their budget")
    if gate:
        create_table_artifact(_rulings(gate), key="gate", description="The gate: against the base and the champion")
    create_markdown_artifact(_samples(folder), key="samples", description="Answers on test rows")
    for key, place, what in (
        ("model-card", folder, "Model card"),
        ("data-card", workspace / layout.DATA_REPORT, "Data card"),
    ):
        create_markdown_artifact(_body((place / "README.md").read_text(encoding="utf-8")), key=key, description=what)
    state = "registered" if published.created else "already registered; nothing was written"
    create_markdown_artifact(
        f"**{published.version.reference}** {state}\n\n`{uri}`\n\n"
        f"Bytes sent: {published.uploaded_bytes:,}; already there: {published.reused_bytes:,}\n\n"
        f"The full report: `tuneline models pull {published.version.reference} --part report --to report`",
        key="version", description="The version in the registry",
    )  # fmt: skip


def _body(card: str) -> str:
    """Without the metadata at its top, which the UI would take for headings."""
    return card.partition("\n---\n")[2] if card.startswith("---\n") else card


def _rulings(given: Sequence[Ruling]) -> list[dict[str, Any]]:
    """The outcome first: what is to the right of a long rule's name is out of sight in the UI."""
    return [{"passed": row["passed"], **row} for row in rulings.rows(given)]


def _verdicts(given: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One row a rule; a format without any is a row of its own."""
    return [
        {"format": verdict.format, **row} for verdict in given for row in _rulings(verdict.rulings)
    ] + [
        {"format": verdict.format, "passed": "yes" if verdict.passed else "no", "rule": "none", "measured": "", "needed": ""}
        for verdict in given
        if not verdict.rulings
    ]  # fmt: skip


def _samples(folder: Path) -> str:
    """Of each sample the last user turn, the reference, and each target's answer. Not a table: the UI breaks no line in one."""
    samples: list[dict[str, Any]] = json.loads((folder / "samples.json").read_bytes())
    return "\n".join(
        f"> {escape(sample['prompt'][-1]['content'])}\n\n" + "".join(f"- **{escape(who)}**: {escape(text)}\n" for who, text in (
            ("reference", sample["reference"]),
            *((answer["target"], answer["prediction"]) for answer in sample["answers"]),
        ))
        for sample in samples
    )  # fmt: skip
