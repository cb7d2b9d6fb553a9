"""Train the adapter: the base stays as it is, the method's few parameters learn the task."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tasks.core import digest, disk, layout, manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import TrainParams
from tasks.core.step import main
from tasks.storage import devices
from tasks.storage.process import owned

CHECKPOINT_SECONDS = 30.0


def train(params: TrainParams, *, chat: Path, base: Path, out: Path, report: Path) -> Manifest:
    """Fit the adapter `out`, in PEFT's format, to the train split; curves go to `report`.

    One training at a time uses a GPU; another one waits. A killed run resumes from its newest whole checkpoint, with
    however many processes; with as many as before it ends with the same bytes as an undisturbed one.
    """
    from tasks.ml import launch, loggers

    several = launch.is_wanted(params)
    mine = devices.wanted(os.environ, params.launch.processes)
    checkpoints = _checkpoints(params, chat, base)
    disk.check_writable(out, report, checkpoints)
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    # One that was told to end may still write its last checkpoint.
    with (
        owned(checkpoints),
        devices.turn(mine),
        loggers.attached(os.environ, params.model_dump(mode="json")),
    ):
        if several:
            launch.run("tasks.train:fit", params, chat=chat, base=base, out=out, report=report)
        else:
            fit(params, chat=chat, base=base, out=out, report=report)
    return manifest.read(out)


def fit(params: TrainParams, *, chat: Path, base: Path, out: Path, report: Path) -> None:
    """This process's share of the training; the first process writes what comes of it."""
    from tasks.ml import adapters

    inputs = {"chat": manifest.verify(chat).digest, "base": manifest.verify(base).digest}
    values = params.model_dump(mode="json")
    checkpoints = _checkpoints(params, chat, base)
    seconds = float(os.environ.get("TUNELINE_CHECKPOINT_SECONDS", CHECKPOINT_SECONDS))
    outcome = adapters.train(params, chat=chat, base=base, checkpoints=checkpoints, seconds=seconds)
    if not outcome.is_first:
        return
    with manifest.staged(report) as folder:
        outcome.result.write(folder)
        manifest.seal(folder, step="train", inputs=inputs, params=values, facts=outcome.measured)
    with manifest.staged(out) as folder:
        outcome.tuned.save(folder)
        manifest.seal(folder, step="train", inputs=inputs, params=values, facts=outcome.facts)
    outcome.checkpoints.clear()


def _checkpoints(params: TrainParams, chat: Path, base: Path) -> Path:
    inputs = {"chat": manifest.read(chat).digest, "base": manifest.read(base).digest}
    return layout.checkpoints(digest.of_value({"step": "train", "params": _of_the_result(params), "inputs": inputs}))


def _of_the_result(params: TrainParams) -> dict[str, Any]:
    """All params but how many processes compute: a checkpoint is resumed by any number of them."""
    launch = params.launch.model_copy(update={"processes": 1, "sharded": False})
    return params.model_copy(update={"launch": launch}).model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(main(train))
