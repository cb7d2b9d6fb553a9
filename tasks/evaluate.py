"""Evaluate one target on the frozen test split: loss on the answers, generations, metrics for every row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import EvaluateParams
from tasks.core.standing import Standing
from tasks.core.step import main

if TYPE_CHECKING:
    from tasks.data.preference import Judge
    from tasks.ml.asked import Asked


def evaluate(
    params: EvaluateParams, *, target: str, chat: Path, base: Path, model: Path, suites: Path, out: Path
) -> Manifest:
    """Judge `model` (the base itself, an adapter on it, a merged or a quantised model) as it would be served.

    Every target sees the same rows, rendered and tokenised alike. `rows.jsonl` has one line a test row, `suites.jsonl` one an
    item of the suites that the params name; none, if there is nothing to judge because the format was not made.
    """
    from tasks.ml import asked, engines, metrics
    from tasks.storage import judging

    metrics.check(params)
    judge = judging.of(params)
    engines.check(params.engine)
    questions = asked.read(params, suites)
    inputs = {"chat": manifest.verify(chat).digest, "base": manifest.verify(base).digest}
    inputs |= asked.digests(suites, questions)
    judged = manifest.verify(model)
    inputs |= {**judged.inputs, target: judged.digest}  # what it was made from, so that a leftover can be told
    standing = Standing.of(judged)
    with manifest.staged(out) as folder:
        rows, outcomes, summary = (
            _answers(params, questions, judge, target, chat, base, model)
            if standing.made
            else ([], [], {"target": target, "rows": 0})
        )
        for name, lines in (("rows.jsonl", rows), ("suites.jsonl", outcomes)):
            with (folder / name).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        summary |= {"made": standing.made, "note": standing.note}
        summary |= {name: judged.facts[name] for name in ("likeness",) if name in judged.facts}
        (folder / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        facts = {"target": target, "rows": len(rows), **standing.facts}
        return manifest.seal(folder, step="evaluate", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


def _answers(
    params: EvaluateParams, questions: Asked, judge: Judge | None, target: str, chat: Path, base: Path, model: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    from tasks.ml import evaluation

    report = evaluation.run(params, questions, judge, target=target, chat=chat, base=base, model=model)
    return report.rows, [outcome.line() for outcome in report.outcomes], report.summary


if __name__ == "__main__":
    sys.exit(main(evaluate))
