"""What every trainer is asked and what it answers. Imported by the peers' interpreters: standard library only.

    PYTHON benchmarks/peers/NAME_train.py LESSON OUT [SETTING]

LESSON is a JSON file: a model folder, an adapter in PEFT's format to start from, and rows of token ids with their labels,
so that template, tokenizer, shuffling and initial weights are nobody's choice. Step i trains on the rows i*n to i*n+n-1,
with the loss averaged over all their labelled tokens. OUT is a new folder for everything that the trainer writes. SETTING is
JSON that only one of the trainers understands. The answer is the last line of standard output.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

USAGE = "expected LESSON OUT [SETTING]"
IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class Row:
    """Token ids, and the label at the place of each: its own id, or IGNORED."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Lesson:
    """LoRA on all linear layers without dropout, AdamW at a constant rate without decay, the gradient's norm clipped."""

    base: Path
    adapter: Path
    rank: int
    alpha: int
    learning_rate: float
    max_grad_norm: float
    rows_a_step: int
    rows: list[Row]
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def steps(self) -> int:
        return len(self.rows) // self.rows_a_step

    def batch(self, step: int) -> list[Row]:
        """The rows of a step, counted from 0."""
        return self.rows[step * self.rows_a_step : (step + 1) * self.rows_a_step]


@dataclass(frozen=True)
class Asked:
    lesson: Lesson
    out: Path
    setting: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One entry a step of `losses`, `tokens` (without padding), `seconds` and `cpu_seconds`.

    `ready_seconds`: from the start of the process to the end of the first step. `peak_rss_bytes`: at the end of the last;
    on a GPU it is the memory that torch had allocated there.
    """

    version: str
    losses: list[float]
    tokens: list[int]
    seconds: list[float]
    cpu_seconds: list[float]
    ready_seconds: float
    peak_rss_bytes: int


class Clock:
    """Wall and processor time of the steps, and what the process had used when the last one ended."""

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self.peak_rss_bytes = 0
        self.ready_seconds = 0.0

    def begin(self) -> None:
        """When the first step begins. Later calls are of no effect: step i ends where step i + 1 begins."""
        if not self._wall:
            self._mark()

    def end_step(self) -> None:
        self._mark()
        if len(self._wall) == 2:
            self.ready_seconds = time.time() - _started()
        self.peak_rss_bytes = self._peak()

    def _peak(self) -> int:
        if self._lesson.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        import torch

        return torch.cuda.max_memory_allocated()

    def _mark(self) -> None:
        if self._lesson.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self._wall.append(time.perf_counter())
        self._cpu.append(time.process_time())

    def answer(self, version: str, losses: Sequence[float]) -> Answer:
        """Law: exits where there is not one loss and one time for every step, so that no trainer did another lesson."""
        lesson = self._lesson
        seconds, cpu = _differences(self._wall), _differences(self._cpu)
        if not len(losses) == len(seconds) == lesson.steps:
            sys.exit(f"{len(losses)} losses and {len(seconds)} times for a lesson of {lesson.steps} steps")
        tokens = [sum(len(row.ids) for row in lesson.batch(step)) for step in range(lesson.steps)]
        return Answer(version, list(losses), tokens, seconds, cpu, self.ready_seconds, self.peak_rss_bytes)


def _differences(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def _started() -> float:
    """When this process began, in seconds since the epoch (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def write(file: Path, lesson: Lesson) -> None:
    value = asdict(lesson) | {"base": str(lesson.base), "adapter": str(lesson.adapter)}
    file.write_text(json.dumps(value), encoding="utf-8")


def load(file: Path) -> Lesson:
    value: dict[str, Any] = json.loads(file.read_bytes())
    rows = [Row(**row) for row in value.pop("rows")]
    return Lesson(Path(value.pop("base")), Path(value.pop("adapter")), rows=rows, **value)


def read() -> Asked:
    """The task of the command line. Call it before `datasets` is imported: that is when its cache is chosen."""
    if len(sys.argv) not in (3, 4):
        sys.exit(f"{Path(sys.argv[0]).name}: {USAGE}, found {len(sys.argv) - 1} arguments")
    out = Path(sys.argv[2]).absolute()
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        sys.exit(f"{out} exists: name a new folder, so that nothing of an earlier run is used")
    os.environ.update(HF_DATASETS_CACHE=str(out / "cache"), HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", WANDB_DISABLED="true")
    setting: dict[str, Any] = json.loads(sys.argv[3]) if len(sys.argv) == 4 else {}
    return Asked(load(Path(sys.argv[1])), out, setting)


def answer(given: Answer) -> None:
    print(json.dumps(asdict(given)), flush=True)
