"""From a base and a training set to an adapter on disk, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.core import events
from tasks.core.continued import FROZEN
from tasks.core.errors import ResourceError
from tasks.core.sections import TrainParams
from tasks.data import chatset
from tasks.data.chatset import Reading, Tokens
from tasks.ml import attention, fused, loading, memory, methods, prediction, sharding, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.history import Result
from tasks.ml.prediction import Memory
from tasks.ml.tuned import Ahead, Tuned
from tasks.ml.world import World


@dataclass(frozen=True)
class Outcome:
    """`facts` are equal for equal work; `measured` differ from run to run. Of several processes, the first (`is_first`) writes."""

    tuned: Tuned
    result: Result
    checkpoints: Checkpoints
    facts: dict[str, Any]
    measured: dict[str, Any]
    is_first: bool


def train(params: TrainParams, *, chat: Path, base: Path, checkpoints: Path, seconds: float) -> Outcome:
    """Train the method's parameters, in this process alone or as one of those that torchrun started.

    MemoryError: there is too little for it, wherever that showed.
    """
    try:
        with World.here(params.launch.processes).joined() as world:
            return _train(params, chat=chat, base=base, keeper=Checkpoints(checkpoints, seconds), world=world)
    except RuntimeError as error:
        if not memory.is_exhausted(error):
            raise
        raise MemoryError from None


def _train(params: TrainParams, *, chat: Path, base: Path, keeper: Checkpoints, world: World) -> Outcome:
    """Seed, load, attach, fit, in this order: an adapter made before the seed would differ from run to run."""
    method, options = methods.find(params)
    loading.threads()
    torch.manual_seed(params.launch.seed)
    held = method.base(options)
    model = loading.load(base, loading.compute_dtype(params.launch.dtype), held=held, attention=attention.NAME)
    model.requires_grad_(False)
    packs, valid = chatset.Packs(chat / "train"), chatset.read(chat / "valid.parquet")
    ahead = Ahead(training.steps_an_epoch(len(packs), params) * params.epochs, packs)
    tuned = method.attach(model, params, options, ahead)
    if (base / FROZEN).is_dir():
        from tasks.ml.lora import frozen

        tuned = frozen.join(tuned, base / FROZEN)
    fused.fuse(model)
    predicted = prediction.settle(tuned, packs, params, world)
    keeper.check_room(
        adapter=sum(value.nbytes for value in tuned.trainable().values()),
        checkpoint=predicted.gradients + predicted.optimizer + predicted.best,  # masters are as large as gradients
    )
    if params.launch.sharded:
        tuned = sharding.shard(tuned, world)
    result = fit(tuned, packs, valid, params, keeper, world, predicted)
    last = result.history[-1]
    events.note(f"peak memory: {prediction.gb(last.memory_bytes)}, {prediction.gb(predicted.total)} were predicted")
    facts = {
        "method": params.method, "trainable_parameters": sum(value.numel() for value in tuned.trainable().values()),
        "total_parameters": tuned.runner.model.num_parameters(), "steps": last.step,
        "dtype": str(model.dtype).removeprefix("torch."), "base": held, **tuned.facts,
    }  # fmt: skip
    measured = {
        "seconds": last.seconds,
        "tokens_per_second": last.tokens / last.seconds,
        "peak_memory_bytes": last.memory_bytes,
        "predicted_memory_bytes": predicted.total,
    }
    return Outcome(tuned, result, keeper, facts, measured, world.is_first)


def fit(
    tuned: Tuned, packs: Reading, valid: Sequence[Tokens], params: TrainParams, keeper: Checkpoints, world: World,
    predicted: Memory,
) -> Result:  # fmt: skip
    """`training.fit`; ResourceError: memory ran out in spite of everything, with what was predicted."""
    try:
        return training.fit(tuned, packs, valid, params, keeper, world)
    except MemoryError as error:
        raise ResourceError(
            f"{' '.join(f'train ran out of memory {error}'.split())}: {prediction.gb(predicted.total)} were predicted "
            f"({prediction.tell(predicted)}). Lower prepare.max_length or train.rank, leave train.launch.recompute at auto, "
            "or take train.method: qlora"
        ) from None
