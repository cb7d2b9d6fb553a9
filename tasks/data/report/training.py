"""What `train` left: the loss of every optimizer step, and of the validation rows now and then."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tasks.core.errors import DataError
from tasks.data.report.values import Value, complaint


class Point(Value):
    """The loss after an optimizer step, counted from 1."""

    step: int
    loss: float


@dataclass(frozen=True)
class History:
    train: tuple[Point, ...]
    valid: tuple[Point, ...]


def read(folder: Path) -> History:
    """Both curves; a run without validation rows has an empty one."""
    return History(_points(folder / "history.csv"), _points(folder / "valid.csv"))


def _points(path: Path) -> tuple[Point, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        points = [Point.model_validate_strings({"step": line.get("step"), "loss": line.get("loss")}) for line in lines]
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise DataError(
            f"{path} is no list of steps and losses: {complaint(error)}. Run dvc repro --force train"
        ) from None
    return tuple(point for point in points if math.isfinite(point.loss))


def smoothed(points: Sequence[Point], over: int) -> tuple[Point, ...]:
    """Mean over the `over` steps around each; at the ends, over as many as there are."""
    losses, half = [point.loss for point in points], over // 2
    windows = [losses[max(0, i - half) : i + half + 1] for i in range(len(losses))]
    return tuple(
        Point(step=point.step, loss=math.fsum(window) / len(window))
        for point, window in zip(points, windows, strict=True)
    )
