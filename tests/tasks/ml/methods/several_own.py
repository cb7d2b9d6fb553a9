"""The trainings that test_own_several.py compares, run by torchrun in two processes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tasks.core.sections import Launch, TrainParams
from tasks.ml.world import World
from tests.tasks.ml import several

METHODS: dict[str, tuple[dict[str, object], bool]] = {
    "delta_lora": ({"start": 0.3}, True),
    "adapter": ({"size": 3, "norms": False}, True),
    "reft": ({"positions": "f2+l3"}, True),
    "lisa": ({"layers": 1, "period": 2}, False),
}
"""Options, and whether the frozen base is shared out: lisa leaves nothing frozen."""


def params(method: str, *, alone: bool) -> TrainParams:
    options, sharded = METHODS[method]
    launch = Launch(dtype="float32") if alone else Launch(dtype="float32", processes=2, sharded=sharded)
    return several.PARAMS.model_copy(update={"method": method, "options": options, "launch": launch})


if __name__ == "__main__":
    torch.set_num_threads(1)
    with World.here(2).joined() as world:
        for name in METHODS:
            several.train(Path(sys.argv[1]), Path(sys.argv[2]) / name, params(name, alone=False), world)
