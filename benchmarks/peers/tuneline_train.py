"""The line's own loop on a lesson: one pack of rows is one step.

SETTING: more of the `train` section of params.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import lesson
from benchmarks.peers.lesson import Answer, Asked, Clock, Lesson
from tasks.core.sections import TrainParams
from tasks.data.chatset import Reading, Segment, Tokens

if TYPE_CHECKING:
    from tasks.ml.history import Result
    from tasks.ml.tuned import Tuned


@dataclass(frozen=True)
class Steps:
    """The lesson's steps as packs; `order[i]` is the pack that the loop reads for step i."""

    lesson: Lesson
    order: Sequence[int]

    def __len__(self) -> int:
        return self.lesson.steps

    def __getitem__(self, place: int) -> list[Tokens]:
        step = self.order.index(place)
        return [
            Segment(f"{step}.{number}", row.ids, [label != lesson.IGNORED for label in row.labels])
            for number, row in enumerate(self.lesson.batch(step))
        ]


class Timed:
    """Packs that keep the clock: a step begins when its pack is read. After `steps` of them the reading ends the run."""

    def __init__(self, packs: Reading, clock: Clock, steps: int) -> None:
        self._packs, self._clock, self._steps, self._read = packs, clock, steps, 0

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, place: int) -> Sequence[Tokens]:
        self._clock.end_step() if self._read else self._clock.begin()
        if self._read == self._steps:
            raise Enough
        self._read += 1
        return self._packs[place]


class Enough(Exception):
    """As many steps as were asked for are done, though the packs would give more."""


def params(asked: Mapping[str, Any], given: Lesson) -> TrainParams:
    optimizer = {
        "learning_rate": given.learning_rate, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0,
        "max_grad_norm": given.max_grad_norm,
    }  # fmt: skip
    return TrainParams.model_validate({"rank": given.rank, "alpha": given.alpha, "optimizer": optimizer, **asked})


def train(asked: Asked) -> Answer:
    import torch

    chosen, clock, steps = params(asked.setting, asked.lesson), Clock(asked.lesson), asked.lesson.steps
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(chosen.launch.seed)).tolist()
    packs = Timed(Steps(asked.lesson, order), clock, steps)
    result = fit(chosen, asked.lesson.base, asked.out, packs, lambda tuned: _begin_with(tuned, asked.lesson, chosen))
    clock.end_step()
    return clock.answer(metadata.version("tuneline"), [record.loss for record in result.history])


def fit(chosen: TrainParams, base: Path, out: Path, packs: Reading, prepare: Callable[[Tuned], None]) -> Result:
    """What `tasks.ml.adapters.train` does with packs from a folder."""
    import torch

    from tasks.ml import attention, fused, loading, methods, training
    from tasks.ml.checkpoints import Checkpoints
    from tasks.ml.tuned import Ahead

    method, options = methods.find(chosen)
    loading.threads()
    torch.manual_seed(chosen.launch.seed)
    dtype = loading.compute_dtype(chosen.launch.dtype)
    model = loading.load(base, dtype, held=method.base(options), attention=attention.NAME)
    model.requires_grad_(False)
    ahead = Ahead(training.steps_an_epoch(len(packs), chosen) * chosen.epochs, packs)
    tuned = method.attach(model, chosen, options, ahead)
    prepare(tuned)
    fused.fuse(model)
    return training.fit(tuned, packs, [], chosen, Checkpoints(out / "checkpoints", 1e9))


def _begin_with(tuned: Tuned, given: Lesson, chosen: TrainParams) -> None:
    """Give the adapter the lesson's initial weights. Only LoRA has them; exits where a tensor of it gets none."""
    import torch
    from safetensors.torch import load_file

    if chosen.method != "lora":
        return
    weights = load_file(given.adapter / "adapter_model.safetensors")
    trainable = {f"base_model.model.{name.replace('.default', '')}": value for name, value in tuned.trainable().items()}
    if weights.keys() != trainable.keys():
        sys.exit(
            f"{len(weights)} initial tensors for {len(trainable)} trainable ones: another adapter than the lesson's"
        )
    with torch.no_grad():
        for name, value in trainable.items():
            value.copy_(weights[name])


if __name__ == "__main__":
    lesson.answer(train(lesson.read()))
