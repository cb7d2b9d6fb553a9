"""What a training leaves behind of itself: a record a step, the losses on held-out rows, and both as tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any


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
class Result:
    history: list[Record]
    validations: list[Validation]

    def write(self, folder: Path) -> None:
        """`history.csv` and `valid.csv`, for people and for `dvc plots`."""
        _write(folder / "history.csv", self.history, Record)
        _write(folder / "valid.csv", self.validations, Validation)


def _write(file: Path, records: Sequence[Record] | Sequence[Validation], kind: type[Record] | type[Validation]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator=os.linesep)
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(record.values() for record in records)
