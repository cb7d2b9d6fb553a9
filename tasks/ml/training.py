"""The training loop: packed rows, token-weighted loss, float32 masters, exact resume.

Given the same inputs, params and thread count it ends with the same bytes, however often it was
killed and started again: data order is a function of the seed, the learning rate one of the step,
what trains one of the step and the losses, and everything else that a step reads is in the checkpoint.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tasks.core import events
from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import Optimizer, TrainParams
from tasks.data.chatset import Reading, Tokens
from tasks.ml import memory, not_finite, packing, stopping
from tasks.ml.checkpoints import Checkpoints, State, part
from tasks.ml.conflicts import Tasks
from tasks.ml.health import Watch
from tasks.ml.history import Record, Result, Validation
from tasks.ml.masters import Masters
from tasks.ml.packing import Pack
from tasks.ml.tuned import Moment, Runner, Tuned
from tasks.ml.world import ALONE, World


def steps_an_epoch(packs: int, params: TrainParams) -> int:
    return math.ceil(packs / params.batch.packs)


def fit(
    tuned: Tuned, train: Reading, valid: Sequence[Tokens], params: TrainParams, checkpoints: Checkpoints,
    world: World = ALONE,
) -> Result:  # fmt: skip
    """Train what the method lets train, resuming from the newest whole checkpoint.

    Every process of the `world` calls this with the same arguments, and ends with the same weights and result.

    `train` are packs of rows, each read when its step comes. With `validation.keep: best` the weights end as they
    were at the lowest loss on `valid`.
    SIGTERM or Ctrl-C: a checkpoint, then SystemExit(143 or 130); a second one ends it at once.
    DataError: a batch gave a loss that is not finite; it names the rows and the file that keeps them. ModelError: nothing moved.
    """
    if params.validation.patience is not None and not valid:
        raise ParamsError(
            "train.validation.patience needs validation rows: raise prepare.splits.valid, or set it to null"
        )
    run = _Run(tuned, params, steps_an_epoch(len(train), params), world, checkpoints.folder)
    start = run.fingerprints()
    world.check_equal(list(start.values()), "the weights at the start")
    with world.first_alone():
        state = checkpoints.newest()
    if state:
        run.restore(state)
    else:
        run.validate(valid)
    with stopping.listening() as stop:
        while not run.ended:
            run.step(_batch(train, run.done + 1, run.per_epoch, params))
            if run.done % run.every == 0 or run.done == run.steps:
                run.validate(valid)
            run.tell()
            ending, due = world.any(stop.is_set, world.is_first and checkpoints.due())
            if not run.ended and (ending or due):
                _save(run.state(), checkpoints, world)
            if ending:
                raise SystemExit(128 + stop.signal)
    world.check_equal(list(run.fingerprints().values()), "the weights at the end")
    run.finish()
    _check_moved(start, run.fingerprints())
    return run.result()


@dataclass
class _Run:
    """One training under way: what it has done, and everything that its next step reads."""

    tuned: Tuned
    params: TrainParams
    per_epoch: int
    world: World
    folder: Path
    history: list[Record] = field(default_factory=list[Record])
    validations: list[Validation] = field(default_factory=list[Validation])

    def __post_init__(self) -> None:
        self.steps = self.per_epoch * self.params.epochs
        self.every = max(1, self.steps // self.params.validation.times)
        self._micro_tokens = self.params.batch.micro_tokens
        self._masters = Masters(self.tuned, self.params.optimizer)
        self._best: dict[str, torch.Tensor] = {}
        self._health = Watch()
        self._tasks = Tasks(self._masters, self.world, self.params)
        self._masters.choose(self.tuned.trains(1, ()))

    @property
    def done(self) -> int:
        return len(self.history)

    @property
    def ended(self) -> bool:
        """All steps done, or no lower loss for as many measurements as the params have patience for."""
        losses, patience = [validation.loss for validation in self.validations], self.params.validation.patience
        since = len(losses) - 1 - losses.index(min(losses))
        return self.done >= self.steps or (patience is not None and since >= patience)

    def step(self, batch: Sequence[Tokens]) -> None:
        started, number = time.perf_counter(), self.done + 1
        self._masters.choose(self.tuned.trains(number, [record.loss for record in self.history]))
        self.tuned.runner.model.train()
        loss, targets = self._gradients(batch)
        rate = learning_rate(self.done, self.steps, self.params.optimizer)
        norm = self._masters.update(max(targets, 1), rate)
        not_finite.check(loss, norm, number, batch, self.folder, self.world)
        self._masters.take(self.tuned.after(Moment(number, self.steps, self._masters.gradients())))
        tokens, seconds = sum(len(example.ids) for example in batch), time.perf_counter() - started
        before = self.history[-1] if self.history else None
        self.history.append(Record(
            number, loss / max(targets, 1), rate, norm, tokens + (before.tokens if before else 0),
            seconds + (before.seconds if before else 0.0), tokens / seconds, peak_memory(),
        ))  # fmt: skip

    def _gradients(self, batch: Sequence[Tokens]) -> tuple[float, int]:
        """Loss and targets of the batch, its gradients collected; out of memory, the same again in smaller parts."""
        while True:
            random, sums = memory.random_state(), (math.nan, 0)
            try:
                sums = self._accumulate(batch)
                exhausted = False
            except (MemoryError, RuntimeError) as error:
                if not memory.is_exhausted(error):
                    raise
                if self.params.launch.sharded:  # the others wait for this one's part of the layers: none can go back
                    raise MemoryError("in one of several processes that share the model's layers") from None
                exhausted = True
            if self.world.any(exhausted) == [False]:
                return self._sum(*sums)
            self._masters.zero()
            memory.set_random_state(random)
            self._micro_tokens = memory.smaller(self._micro_tokens, batch, self.tuned.runner.model, self.params.launch)

    def _accumulate(self, batch: Sequence[Tokens]) -> tuple[float, int]:
        """Those of this process's share; with PCGrad the gradients of each task are set apart."""
        loss, targets = 0.0, 0
        self._masters.zero()
        with self.world.own_noise():
            for rows in self._tasks.of(batch):
                for pack, counts in self._packs(rows):
                    total = self.tuned.runner.loss_sum(pack, self.params.batch.neftune) * counts
                    if total.requires_grad:  # a pack without a target has nothing to teach
                        total.backward()
                    self._masters.collect()
                    loss, targets = loss + total.item(), targets + len(pack.targets) * counts
                self._tasks.end()
        return loss, targets

    def _packs(self, batch: Sequence[Tokens]) -> Iterator[tuple[Pack, int]]:
        """This process's packs, each counting once. Where layers are gathered from all processes, all make equally many
        passes: who has fewer packs goes through one again that counts 0 times."""
        parts, share = self.world.shares(batch, _length), self.tuned.runner.shares and not self.params.batch.neftune
        mine = [(pack, 1) for pack in packing.packs(parts[self.world.rank], self._micro_tokens, share=share)]
        if self.params.launch.sharded:
            rounds = max(len(list(packing.packs(rows, self._micro_tokens))) for rows in parts)
            idle = packing.pack([min(batch, key=_length)])
            mine += [(idle, 0)] * (rounds - len(mine))
        yield from mine

    def _sum(self, loss: float, targets: int) -> tuple[float, int]:
        """Loss, targets and gradients of all processes; the penalty is no sum over rows, so each adds it to the total."""
        loss, count = self.world.totals(loss, targets)
        self._tasks.join(self.done + 1)
        if self.tuned.penalty is not None:
            (self.tuned.penalty() * max(count, 1)).backward()
            self._masters.collect()
        return loss, int(count)

    def validate(self, valid: Sequence[Tokens]) -> None:
        loss = mean_loss(self.tuned.runner, valid, self.world)
        if self.params.validation.keep == "best" and all(loss < before.loss for before in self.validations):
            self._best = {name: value.clone() for name, value in self._tensors().items()}
        self.validations.append(Validation(self.done, loss))
        if self.done:
            self._look()

    def _look(self) -> None:
        """At the health of what the last step trained; its gradients are there until the next one begins."""
        clipped = min(1.0, self.params.optimizer.max_grad_norm / (self.history[-1].grad_norm + 1e-6))
        warm = self.done > math.ceil(self.steps * self.params.optimizer.warmup)
        self._health.look(
            self.done, self._masters.gradients(), 1 / clipped, self._masters.values(), self.tuned.trainable(), warm=warm
        )

    def result(self) -> Result:
        return Result(self.history, self.validations, self._health.records)

    def finish(self) -> None:
        """Return to the best weights where the params ask for them."""
        self._tasks.tell()
        if self.params.validation.keep == "best" and self._best:
            self._masters.put(part(self._best, "value"))
            self.tuned.restore(part(self._best, "method"))

    def tell(self) -> None:
        record, left = self.history[-1], self.steps - self.done
        events.progress(
            "train", record.step, self.steps, loss=record.loss, valid_loss=self.validations[-1].loss,
            learning_rate=record.learning_rate, grad_norm=record.grad_norm, tokens_per_second=record.tokens_per_second,
            memory_gb=record.memory_bytes / 1e9, eta_s=round(left * record.seconds / record.step),
        )  # fmt: skip

    def fingerprints(self) -> dict[str, int]:
        """A number for each trainable tensor's bytes."""
        return {name: memory.fingerprint(value) for name, value in self.tuned.trainable().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What the model computes with: the values that trained, and what the method remembers."""
        tensors = {f"value.{name}": value for name, value in self._masters.values().items()}
        return tensors | {f"method.{name}": value for name, value in self.tuned.state().items()}

    def state(self) -> State:
        tensors = self._tensors()
        tensors |= {f"optimizer.{place}": value for place, value in self._masters.memory().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        tensors |= {f"random.{name}": value for name, value in memory.random_state().items()}
        values = {
            "micro_tokens": self._micro_tokens,
            "history": [record.values() for record in self.history],
            "validations": [validation.values() for validation in self.validations],
            "health": self._health.state(),
            "conflicts": self._tasks.state(),
        }
        return State(self.done, tensors, values)

    def restore(self, state: State) -> None:
        """ModelError: the checkpoint belongs to other parameters (its key should have prevented that)."""
        self.history = [Record(*values) for values in state.values["history"]]
        self.validations = [Validation(*values) for values in state.values["validations"]]
        self._micro_tokens = state.values["micro_tokens"]
        self._tasks.restore(state.values["conflicts"])
        self._health = Watch.restored(state.values["health"])
        self._masters.choose(self.tuned.trains(self.done, [record.loss for record in self.history[:-1]]))
        self._masters.put(state.part("value"))
        self._masters.remember(state.part("optimizer"))
        self._best = state.part("best")
        self.tuned.restore(state.part("method"))
        memory.set_random_state(state.part("random"))
        events.note(f"resuming after step {state.step} of {self.steps}")


def _save(state: State, checkpoints: Checkpoints, world: World) -> None:
    """By the first process, once all are seen to hold the same; the others wait, so that none ends before it is written."""
    world.check_equal([memory.fingerprint(value) for value in state.tensors.values()], "the weights")
    if world.is_first:
        checkpoints.save(state)
    world.wait()


def _check_moved(before: dict[str, int], after: dict[str, int]) -> None:
    """ModelError: nothing that trains is another than at the start. What alone stood still is named."""
    still = [name for name, value in after.items() if before.get(name) == value]
    if len(still) == len(after):
        raise ModelError("no trainable tensor moved: nothing was learned, nothing is written")
    if still:
        events.warning(f"{len(still)} of {len(after)} trainable tensors never moved, the first is {still[0]}")


def _batch(train: Reading, step: int, per_epoch: int, params: TrainParams) -> list[Tokens]:
    """The rows of a step's packs (steps from 1): each epoch is its own permutation, a function of the seed and the epoch."""
    epoch, place = divmod(step - 1, per_epoch)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(params.launch.seed + epoch)).tolist()
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


def mean_loss(runner: Runner, examples: Sequence[Tokens], world: World = ALONE) -> float:
    """Mean loss over all targets of the rows, which the processes share; NaN where there is none."""
    runner.model.eval()
    shares = world.shares(examples, _length)
    mine = shares[world.rank]
    idle = [examples[0]] * (max(map(len, shares)) - len(mine)) if world.size > 1 else []  # as in _Run._packs
    losses = [(loss * count, count) for _, loss, count in packing.row_losses(runner, [*mine, *idle])][: len(mine)]
    loss, total = world.totals(sum(loss for loss, _ in losses), sum(count for _, count in losses))
    return loss / total if total else float("nan")


def _length(example: Tokens) -> int:
    return len(example.ids)


def peak_memory() -> int:
    """Peak bytes of this process: on the GPU where it computes on one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the process that started this one held
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
