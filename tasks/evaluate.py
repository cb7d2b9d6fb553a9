"""Evaluate one target on the frozen test split: loss on the answers, generations, metrics for every row."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.core import manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import EvaluateParams
from tasks.core.step import main


def evaluate(params: EvaluateParams, *, target: str, chat: Path, base: Path, model: Path, out: Path) -> Manifest:
    """Judge `model` (the base itself, an adapter on it, a merged or a quantised model) as it would be served.

    Every target sees the same rows, rendered and tokenised alike. `rows.jsonl` has one line a test row.
    """
    from tasks.ml import evaluation, metrics

    metrics.check(params.metrics)
    inputs = {"chat": manifest.verify(chat).digest, "base": manifest.verify(base).digest}
    judged = manifest.verify(model)
    inputs |= {**judged.inputs, target: judged.digest}  # what it was made from, so that a leftover can be told
    with manifest.staged(out) as folder:
        report = evaluation.run(params, target=target, chat=chat, base=base, model=model)
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in report.rows)
        (folder / "metrics.json").write_text(json.dumps(report.summary, indent=1) + "\n", encoding="utf-8")
        facts = {"target": target, "rows": len(report.rows)}
        return manifest.seal(folder, step="evaluate", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


if __name__ == "__main__":
    sys.exit(main(evaluate))
