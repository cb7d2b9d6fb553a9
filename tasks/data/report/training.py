"""What `train` left: the loss of every optimizer step, and now and then that of the validation rows and effective ranks."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.core.errors import DataError
from tasks.data.report.values import Value, complaint


class Point(Value):
    """The loss after an optimizer step, counted from 1."""

    step: int
    loss: float


class Ranks(Value):
    """The effective rank of B A after an optimizer step: its mean over the layers, and its lowest."""

    step: int
    effective_rank: float
    effective_rank_min: float


@dataclass(frozen=True)
class History:
    train: tuple[Point, ...]
    valid: tuple[Point, ...]
    ranks: tuple[Ranks, ...] = ()


def read(folder: Path) -> History:
    """All curves; a run without validation rows, or whose method has no B A, has empty ones."""
    losses = (_read(folder / name, Point, "losses") for name in ("history.csv", "valid.csv"))
    train, valid = (tuple(point for point in points if math.isfinite(point.loss)) for points in losses)
    return History(train, valid, _read(folder / "health.csv", Ranks, "effective ranks"))


Row = TypeVar("Row", Point, Ranks)


def _read(path: Path, kind: type[Row], what: str) -> tuple[Row, ...]:
    """Every line as a row of this kind; where a cell is empty, there was nothing to measure."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [{name: line.get(name) for name in kind.model_fields} for line in csv.DictReader(file)]
        return tuple(kind.model_validate_strings(line) for line in lines if "" not in line.values())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise DataError(
            f"{path} is no list of steps and {what}: {complaint(error)}. Run dvc repro --force train"
        ) from None


def smoothed(points: Sequence[Point], over: int) -> tuple[Point, ...]:
    """Mean over the `over` steps around each; at the ends, over as many as there are."""
    losses, half = [point.loss for point in points], over // 2
    windows = [losses[max(0, i - half) : i + half + 1] for i in range(len(losses))]
    return tuple(
        Point(step=point.step, loss=math.fsum(window) / len(window))
        for point, window in zip(points, windows, strict=True)
    )
