"""The training loop: packed rows, token-weighted loss, float32 masters, exact resume.

Given the same inputs, params and thread count it ends with the same bytes, however often it was
killed and started again: data order is a function of the seed, the learning rate one of the step,
and everything else that a step reads is in the checkpoint.
"""

from __future__ import annotations

import csv
import math
import os
import resource
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tasks.core import events
from tasks.core.errors import DataError, ModelError
from tasks.core.sections import Optimizer, TrainParams
from tasks.data.chatset import Reading, Tokens
from tasks.ml import packing
from tasks.ml.checkpoints import Checkpoints, State

EVALUATIONS = 4
"""How often the loss on the validation rows is measured in a run, beside the start."""


@dataclass(frozen=True)
class Record:
    """One optimizer step. `loss` is the mean over the batch's targets; `tokens` counts all so far."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int


@dataclass(frozen=True)
class Validation:
    step: int
    loss: float


@dataclass(frozen=True)
class Result:
    history: list[Record]
    validations: list[Validation]


def fit(
    model: PreTrainedModel,
    train: Reading,
    valid: Sequence[Tokens],
    params: TrainParams,
    checkpoints: Checkpoints,
) -> Result:
    """Train the parameters that require gradients, resuming from the newest whole checkpoint.

    `model` is the bare model whose layers carry the adapter; `train` are packs of rows, each read when its step comes.
    SIGTERM: a checkpoint, then SystemExit(143).
    DataError: a batch gave a loss that is not finite; it names the rows.
    """
    trainer = _Trainer(model, params, per_epoch=math.ceil(len(train) / params.batch.packs))
    state = checkpoints.newest()
    history, validations = trainer.restore(state) if state else ([], [Validation(0, mean_loss(model, valid))])
    every = max(1, trainer.steps // EVALUATIONS)
    with _terminated() as stop:
        for step in range(trainer.done + 1, trainer.steps + 1):
            history.append(trainer.step(_batch(train, step, trainer.per_epoch, params), history))
            if step % every == 0 or step == trainer.steps:
                validations.append(Validation(step, mean_loss(model, valid)))
            _tell(history[-1], validations[-1], trainer.steps)
            if step < trainer.steps and (stop.is_set or checkpoints.due()):
                checkpoints.save(trainer.state(history, validations))
            if stop.is_set:
                raise SystemExit(128 + signal.SIGTERM)
    return Result(history, validations)


class _Trainer:
    """Model, float32 masters of its trainable parameters, and AdamW over them."""

    def __init__(self, model: PreTrainedModel, params: TrainParams, per_epoch: int) -> None:
        self._model, self._params = model, params
        self.per_epoch, self.steps, self.done = per_epoch, per_epoch * params.epochs, 0
        self._working = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not self._working:
            raise ModelError(f"train.method={params.method} left nothing to train")
        # bfloat16 has 8 bits of precision: small updates would be lost without a float32 copy to add them to.
        self._masters = {name: value.detach().float().clone() for name, value in self._working.items()}
        self._adam = torch.optim.AdamW(
            self._masters.values(), lr=params.optimizer.learning_rate, weight_decay=params.optimizer.weight_decay
        )

    def step(self, batch: Sequence[Tokens], history: Sequence[Record]) -> Record:
        started, loss, targets = time.perf_counter(), 0.0, 0
        self._model.train()
        for master in self._masters.values():
            master.grad = torch.zeros_like(master)
        for pack in packing.packs(batch, self._params.batch.micro_tokens):
            total = packing.loss_sum(self._model, pack)
            total.backward()
            self._collect()
            loss, targets = loss + total.item(), targets + len(pack.targets)
        norm = self._update(targets)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DataError(
                f"train step {self.done + 1}: loss {loss} with gradient norm {norm} on the rows "
                f"{', '.join(example.id for example in batch)}: look at these rows, or lower train.optimizer.learning_rate"
            )
        self.done += 1
        tokens, seconds = sum(len(example.ids) for example in batch), time.perf_counter() - started
        before = history[-1] if history else None
        return Record(
            self.done, loss / max(targets, 1), self._adam.param_groups[0]["lr"], norm,
            tokens + (before.tokens if before else 0), seconds + (before.seconds if before else 0.0),
            tokens / seconds, peak_memory(),
        )  # fmt: skip

    def _collect(self) -> None:
        """Add the working gradients to the float32 sums, so that accumulation loses nothing."""
        for name, value in self._working.items():
            if value.grad is not None:
                grad = self._masters[name].grad
                assert grad is not None
                grad.add_(value.grad)
                value.grad = None

    def _update(self, targets: int) -> float:
        """Divide by the number of targets, clip, move the masters and round them into the model; the norm before clipping."""
        for master in self._masters.values():
            assert master.grad is not None
            master.grad.div_(max(targets, 1))
        norm = torch.nn.utils.clip_grad_norm_(self._masters.values(), self._params.optimizer.max_grad_norm).item()
        for group in self._adam.param_groups:
            group["lr"] = learning_rate(self.done, self.steps, self._params.optimizer)
        self._adam.step()
        with torch.no_grad():
            for name, value in self._working.items():
                value.copy_(self._masters[name])
        return norm

    def state(self, history: Sequence[Record], validations: Sequence[Validation]) -> State:
        tensors = {f"master.{name}": master for name, master in self._masters.items()}
        for name, master in self._masters.items():
            tensors |= {f"adam.{key}.{name}": value for key, value in self._adam.state[master].items()}
        tensors["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        values = {
            "history": [list(asdict(record).values()) for record in history],
            "validations": [list(asdict(validation).values()) for validation in validations],
        }
        return State(self.done, tensors, values)

    def restore(self, state: State) -> tuple[list[Record], list[Validation]]:
        """ModelError: the checkpoint belongs to other parameters (its key should have prevented that)."""
        names = {name.removeprefix("master.") for name in state.tensors if name.startswith("master.")}
        if names != self._masters.keys():
            raise ModelError(f"the checkpoint of step {state.step} holds other parameters: delete .work/checkpoints")
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(state.tensors[f"master.{name}"])
                self._working[name].copy_(master)
                moments = {
                    key: state.tensors[f"adam.{key}.{name}"].to(master.device) for key in ("exp_avg", "exp_avg_sq")
                }
                self._adam.state[master] = {"step": state.tensors[f"adam.step.{name}"].clone(), **moments}
        torch.set_rng_state(state.tensors["rng"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(state.tensors["rng.cuda"])
        self.done = state.step
        events.note(f"resuming after step {state.step} of {self.steps}")
        return (
            [Record(*values) for values in state.values["history"]],
            [Validation(*values) for values in state.values["validations"]],
        )


def _batch(train: Reading, step: int, per_epoch: int, params: TrainParams) -> list[Tokens]:
    """The rows of a step's packs (steps from 1): each epoch is its own permutation, a function of the seed and the epoch."""
    epoch, place = divmod(step - 1, per_epoch)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(params.seed + epoch)).tolist()
    packs = order[place * params.batch.packs : (place + 1) * params.batch.packs]
    return [row for number in packs for row in train[number]]


def learning_rate(done: int, steps: int, optimizer: Optimizer) -> float:
    """Rate of the step after `done` steps: linear warm-up, then constant, linear or cosine decay towards 0."""
    warmup = math.ceil(steps * optimizer.warmup)
    if done < warmup:
        return optimizer.learning_rate * (done + 1) / (warmup + 1)
    progress = (done - warmup) / max(1, steps - warmup)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return optimizer.learning_rate * factor[optimizer.schedule]


def mean_loss(model: PreTrainedModel, examples: Sequence[Tokens]) -> float:
    """Mean loss over all targets of the rows; NaN where there is none."""
    model.eval()
    losses = [(loss * count, count) for _, loss, count in packing.row_losses(model, examples)]
    total = sum(count for _, count in losses)
    return sum(loss for loss, _ in losses) / total if total else float("nan")


def peak_memory() -> int:
    """Peak bytes of this process: on the GPU where it computes on one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tell(record: Record, validation: Validation, steps: int) -> None:
    left = (steps - record.step) * record.seconds / record.step
    events.progress(
        "train", record.step, steps, loss=record.loss, valid_loss=validation.loss,
        tokens_per_second=record.tokens_per_second, memory_gb=record.memory_bytes / 1e9, eta_s=round(left),
    )  # fmt: skip


class _Stop:
    is_set = False


@contextmanager
def _terminated() -> Generator[_Stop]:
    """SIGTERM only sets a flag here, so that the step under way ends and a checkpoint is written."""
    stop = _Stop()

    def remember(*_: object) -> None:
        stop.is_set = True

    previous = signal.signal(signal.SIGTERM, remember)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)


def write_reports(result: Result, folder: Path) -> None:
    """`history.csv` and `valid.csv`, for people and for `dvc plots`."""
    for name, records, kind in (("history", result.history, Record), ("valid", result.validations, Validation)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator=os.linesep)
            writer.writerow([field.name for field in fields(kind)])
            writer.writerows(asdict(record).values() for record in records)
