"""What a training leaves behind of itself: a record a step, the losses on held-out rows, the health of what trains, and all
as tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True)
class Record:
    """One optimizer step. `loss` is the mean over the batch's targets; `tokens` and `seconds` count all so far."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int

    def values(self) -> list[Any]:
        return list(astuple(self))


@dataclass(frozen=True)
class Validation:
    """Mean loss over the targets of the validation rows after a step; step 0 is the start."""

    step: int
    loss: float

    def values(self) -> list[Any]:
        return list(astuple(self))


@dataclass(frozen=True)
class Health:
    """What trains, looked at after a step: the norms of that step's gradients before clipping, a kind of parameter each,
    and the effective rank of B A, its mean and its lowest over the layers. None: there is nothing of that kind.
    """

    step: int
    grad_a: float | None
    grad_b: float | None
    grad_magnitude: float | None
    grad_other: float | None
    effective_rank: float | None
    effective_rank_min: float | None

    def values(self) -> list[Any]:
        return list(astuple(self))


@dataclass(frozen=True)
class Result:
    history: list[Record]
    validations: list[Validation]
    health: list[Health]

    def write(self, folder: Path) -> None:
        """`history.csv`, `valid.csv` and `health.csv`, for people and for `dvc plots`."""
        _write(folder / "history.csv", self.history, Record)
        _write(folder / "valid.csv", self.validations, Validation)
        _write(folder / "health.csv", self.health, Health)


Row = TypeVar("Row", Record, Validation, Health)


def _write(file: Path, records: Sequence[Row], kind: type[Row]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator=os.linesep)
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(record.values() for record in records)
