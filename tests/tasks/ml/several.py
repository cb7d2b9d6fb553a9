"""The trainings that test_world.py compares: by itself in one process, by torchrun (`-m tests.tasks.ml.several`) in two."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.core.errors import DataError, ModelError
from tasks.core.sections import Batch, Launch, Optimizer, TrainParams
from tasks.data.chatset import Segment
from tasks.ml import attention, fused, loading, memory, methods, sharding, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.history import Result
from tasks.ml.packing import Pack
from tasks.ml.tuned import Ahead, Moment, Tuned
from tasks.ml.world import ALONE, World

STOPPED_AFTER = 5
PARAMS = TrainParams(
    rank=4, epochs=2, launch=Launch(dtype="float32"), batch=Batch(packs=4, micro_tokens=32),
    optimizer=Optimizer(learning_rate=1e-2),
)  # fmt: skip
NOISY = PARAMS.model_copy(update={"options": {"dropout": 0.3}, "batch": Batch(packs=4, micro_tokens=32, neftune=5.0)})
PCGRAD = PARAMS.model_copy(update={"epochs": 1, "batch": Batch(packs=4, micro_tokens=32, pcgrad=True)})
DORA = PARAMS.model_copy(update={"method": "dora", "epochs": 1})
SHARDED = PARAMS.model_copy(update={"launch": Launch(dtype="float32", processes=2, sharded=True)})


def row(number: int) -> Segment:
    length = 8 + number % 13
    ids = [(number * 31 + place * 7) % 300 + 3 for place in range(length)]
    return Segment(str(number), ids, [place >= length // 2 for place in range(length)], f"task {number % 3}")


ROWS = [row(number) for number in range(21)]
"""Five steps of four packs and one of a single row, of which one process has nothing."""


def attach(base: Path, params: TrainParams, world: World, *, recompute: bool = False) -> Tuned:
    torch.manual_seed(params.launch.seed)
    model = loading.load(base, torch.float32, attention=attention.NAME)
    model.requires_grad_(False)
    method, options = methods.find(params)
    tuned = method.attach(model, params, options, Ahead(12, ()))
    fused.fuse(model)
    if recompute:
        memory.recompute(model)
    return sharding.shard(tuned, world) if params.launch.sharded else tuned


def fit(tuned: Tuned, folder: Path, params: TrainParams = PARAMS, world: World = ALONE) -> Result:
    return training.fit(tuned, [[row] for row in ROWS], ROWS[:5], params, Checkpoints(folder, 1e9), world)


def curves(result: Result) -> dict[str, Any]:
    return {
        "losses": [record.loss for record in result.history],
        "norms": [record.grad_norm for record in result.history],
        "valid": [validation.loss for validation in result.validations],
        "health": [each.values() for each in result.health],
    }


def train(base: Path, out: Path, params: TrainParams, world: World, **options: Any) -> None:
    """Train to the end, resuming what lies in `out`; curves, weights and bytes held are left there."""
    tuned = attach(base, params, world, **options)
    held = sharding.held_bytes(tuned.runner.model)
    found = {**curves(fit(tuned, out / "checkpoints", params, world)), "held": held}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"found-{world.rank}.json").write_text(json.dumps(found))
    save_file({name: value.detach() for name, value in tuned.trainable().items()}, out / f"weights-{world.rank}.st")


def stop(base: Path, out: Path, params: TrainParams, world: World) -> None:
    """The last process alone is told to end after some steps: all have to."""

    def after(moment: Moment) -> tuple[str, ...]:
        if moment.step == STOPPED_AFTER and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return ()

    try:
        fit(replace(attach(base, params, world), after=after), out / "checkpoints", params, world)
    except SystemExit as end:
        (out / f"ended-{world.rank}").write_text(str(end.code))


def exhausted(base: Path, out: Path, world: World) -> None:
    """In the last process alone, memory suffices for one row a pass only: all make smaller passes."""
    tuned = attach(base, PARAMS, world)

    def loss_sum(pack: Pack, noise: float) -> Tensor:
        if len(pack.lengths) > 1 and world.rank == world.size - 1:
            raise MemoryError
        return tuned.runner.loss_sum(pack, noise)

    result = fit(replace(tuned, runner=replace(tuned.runner, loss_sum=loss_sum)), out / "checkpoints", world=world)
    (out / f"found-{world.rank}.json").write_text(json.dumps(curves(result)))


def differing(base: Path, out: Path, world: World) -> None:
    """The last process alone starts with a weight of its own."""
    tuned = attach(base, PARAMS, world)
    if world.rank == world.size - 1:
        next(iter(tuned.trainable().values())).data[0, 0] += 1e-3
    try:
        fit(tuned, out / "checkpoints", world=world)
    except ModelError as error:
        (out / f"refused-{world.rank}").write_text(str(error))


def broken(base: Path, out: Path, world: World) -> None:
    """The first step's rate is too high for what comes after it."""
    optimizer = Optimizer(learning_rate=1e30, warmup=0.0, schedule="constant")
    params = PARAMS.model_copy(update={"optimizer": optimizer})
    try:
        fit(attach(base, params, world), out / "checkpoints", params, world)
    except DataError as error:
        there = len((out / "checkpoints" / "not-finite-step-2.jsonl").read_text().splitlines())
        (out / f"refused-{world.rank}").write_text(f"{there} rows kept: {error}")


def main(base: Path, out: Path) -> None:
    torch.set_num_threads(1)
    for name in ("exhausted", "differing", "broken"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with World.here(2).joined() as world:
        train(base, out / "plain", PARAMS, world)
        train(base, out / "sharded", SHARDED, world)
        train(base, out / "recomputed", SHARDED, world, recompute=True)
        train(base, out / "noisy", NOISY, world)
        train(base, out / "dora", DORA.model_copy(update={"launch": SHARDED.launch}), world)
        train(base, out / "pcgrad", PCGRAD.model_copy(update={"launch": SHARDED.launch}), world)
        exhausted(base, out / "exhausted", world)
        differing(base, out / "differing", world)
        broken(base, out / "broken", world)
        for name, params in (("stopped", PARAMS), ("noisy-stopped", NOISY)):
            stop(base, out / name, params, world)
        world.wait()
        with world.first_alone():
            if world.is_first:
                shutil.copytree(out / "stopped", out / "stopped-sharded")
        train(base, out / "stopped-sharded", SHARDED, world)
        train(base, out / "noisy-stopped", NOISY, world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
