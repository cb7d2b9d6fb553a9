"""The line's steps as functions, in a workspace of their own: from a corpus to a registered version in seconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks import publish
from tasks.core import layout, params
from tasks.data import chatset
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.judge import judge
from tasks.merge import merge
from tasks.prepare import prepare
from tasks.report import report
from tasks.storage.embedded import S3
from tasks.storage.registry import Registry
from tasks.storage.revision import Snapshot
from tasks.train import train
from tests import tiny


@dataclass(frozen=True)
class Line:
    """A workspace and the steps in it, as functions."""

    root: Path
    registry: Registry

    def make(self, arrivals: tuple[int, ...], **sections: dict[str, Any]) -> str:
        """Everything from the corpus to a registered version; its reference."""
        self.root.mkdir()
        (self.root / params.FILE).write_text(yaml.safe_dump(sections))
        tiny.make_raw(self.root / layout.RAW, *arrivals)
        shutil.copytree(tiny.SUITES, self.root / layout.SUITES)
        point(self.root, len(arrivals))
        chosen = params.load(self.root / params.FILE)
        fetch(chosen.fetch, out=self.base)
        prepare(
            chosen.prepare,
            raw=self.root / layout.RAW,
            base=self.base,
            out=self.chat,
            report=self.at(layout.DATA_REPORT),
        )
        train(chosen.train, chat=self.chat, base=self.base, out=self.adapter, report=self.at(layout.TRAIN_REPORT))
        merge(chosen.merge, base=self.base, adapter=self.adapter, chat=self.chat, out=self.merged)
        for target, model in (("base", self.base), ("adapter", self.adapter), ("merged", self.merged)):
            out = self.at(layout.evaluation(target))
            evaluate(
                chosen.evaluate, target=target, chat=self.chat, base=self.base, model=model, suites=tiny.SUITES, out=out
            )  # fmt: skip
        judge(
            chosen.quantize, chat=self.chat, base=self.base, merged=self.merged,
            evaluations=self.at(layout.EVALUATIONS), out=self.at(layout.VERDICTS),
        )  # fmt: skip
        report(
            chosen.report, chat=self.chat, base=self.base, adapter=self.adapter, merged=self.merged,
            train=self.at(layout.TRAIN_REPORT), evaluations=self.at(layout.EVALUATIONS),
            verdicts=self.at(layout.VERDICTS), out=self.at(layout.RUN_REPORT),
        )  # fmt: skip
        snapshot = Snapshot("0" * 40, "0" * 40, None)
        return publish.publish_from(chosen.publish, self.root, snapshot, {}, self.registry).version.reference

    def at(self, place: Path) -> Path:
        return self.root / place

    @property
    def base(self) -> Path:
        return self.root / layout.BASE

    @property
    def chat(self) -> Path:
        return self.root / layout.CHAT

    @property
    def adapter(self) -> Path:
        return self.root / layout.ADAPTER

    @property
    def merged(self) -> Path:
        return self.root / layout.MERGED

    def loss(self, target: str, name: str = "loss") -> float:
        return json.loads((self.at(layout.evaluation(target)) / "metrics.json").read_bytes())[name]

    def trained(self) -> set[str]:
        return {row.id for pack in chatset.Packs(self.chat / "train") for row in pack}


def point(root: Path, version: int) -> None:
    """The pointer that says which data version lies here."""
    (root / "data").mkdir(exist_ok=True)
    (root / "data/raw.dvc").write_text(yaml.safe_dump({"outs": [], "meta": {"tuneline_version": version}}))


def registry_environment(s3: S3, bucket: str, work: Path) -> dict[str, str]:
    """For a registry of its own in the session's store."""
    return {
        **s3.environment(), "TUNELINE_REGISTRY": f"s3://{bucket}/registry", "TUNELINE_WORK": str(work),
        "TUNELINE_THREADS": "1",
    }  # fmt: skip
