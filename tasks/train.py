"""Train the adapter: the base stays as it is, the method's few parameters learn the task."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tasks.core import digest, layout, manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import TrainParams
from tasks.core.step import main

CHECKPOINT_SECONDS = 30.0


def train(params: TrainParams, *, chat: Path, base: Path, out: Path, report: Path) -> Manifest:
    """Fit the adapter `out`, in PEFT's format, to the train split; curves go to `report`.

    A killed run resumes from its newest whole checkpoint and ends with the same bytes as an undisturbed one.
    """
    from tasks.ml import adapters, loggers

    inputs = {"chat": manifest.verify(chat).digest, "base": manifest.verify(base).digest}
    key = digest.of_value({"step": "train", "params": params.model_dump(mode="json"), "inputs": inputs})
    seconds = float(os.environ.get("TUNELINE_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS))
    values = params.model_dump(mode="json")
    with loggers.attached(os.environ, values):
        outcome = adapters.train(params, chat=chat, base=base, checkpoints=layout.checkpoints(key), seconds=seconds)
    with manifest.staged(report) as folder:
        outcome.result.write(folder)
        manifest.seal(folder, step="train", inputs=inputs, params=values, facts=outcome.measured)
    with manifest.staged(out) as folder:
        outcome.tuned.save(folder)
        sealed = manifest.seal(folder, step="train", inputs=inputs, params=values, facts=outcome.facts)
    outcome.checkpoints.clear()
    return sealed


if __name__ == "__main__":
    sys.exit(main(train))
