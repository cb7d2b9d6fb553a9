"""A step that gave NaN or infinity: the run ends there, and the batch that did it is kept for whoever looks into it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from tasks.core.errors import DataError
from tasks.data.chatset import Tokens
from tasks.ml.world import World


def check(loss: float, norm: float, step: int, batch: Sequence[Tokens], folder: Path, world: World) -> None:
    """DataError where `loss` or the gradients' `norm` is not finite; it names the rows, and the file in `folder` that
    has them as they were trained on. The first process writes it before any process ends, for the end of one ends all.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    file = folder / f"not-finite-step-{step}.jsonl"
    kept = f"they are kept in {file}"
    with world.first_alone():
        if world.is_first:
            try:
                _write(file, batch)
            except OSError as error:  # what went wrong in the training matters more than that
                kept = f"they could not be kept: {error}"
    raise DataError(
        f"train step {step}: loss {loss} with gradient norm {norm} on the rows "
        f"{', '.join(row.id for row in batch)}; {kept}: look at these rows, or lower train.optimizer.learning_rate"
    )


def _write(file: Path, batch: Sequence[Tokens]) -> None:
    """A row a line: its id, its token ids, and for each token whether it carries loss."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        for row in batch:
            loss = [int(carries) for carries in row.loss]
            stream.write(json.dumps({"id": row.id, "ids": list(row.ids), "loss": loss}, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
