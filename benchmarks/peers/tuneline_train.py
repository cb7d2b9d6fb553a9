"""The line's own loop on a lesson: one pack of rows is one step.

SETTING: more of the `train` section of params.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import lesson
from benchmarks.peers.lesson import Answer, Asked, Clock, Lesson
from tasks.core.sections import TrainParams
from tasks.data.chatset import Segment, Tokens


@dataclass(frozen=True)
class Steps:
    """The lesson's steps as packs. Reading one says that the step begins."""

    lesson: Lesson
    clock: Clock
    order: Sequence[int]

    def __len__(self) -> int:
        return self.lesson.steps

    def __getitem__(self, place: int) -> list[Tokens]:
        self.clock.begin()
        step = self.order.index(place)
        if step:
            self.clock.end_step()
        return [
            Segment(f"{step}.{number}", row.ids, [label != lesson.IGNORED for label in row.labels])
            for number, row in enumerate(self.lesson.batch(step))
        ]


def params(asked: Asked) -> TrainParams:
    return TrainParams.model_validate(
        {
            "rank": asked.lesson.rank, "alpha": asked.lesson.alpha,
            "optimizer": {
                "learning_rate": asked.lesson.learning_rate, "schedule": "constant", "warmup": 0.0,
                "weight_decay": 0.0, "max_grad_norm": asked.lesson.max_grad_norm,
            },
        } | asked.setting
    )  # fmt: skip


def train(asked: Asked) -> Answer:
    import torch

    from tasks.ml import loading, methods, packing, training
    from tasks.ml.checkpoints import Checkpoints

    chosen, clock = params(asked), Clock()
    loading.threads()
    torch.manual_seed(chosen.seed)
    model = loading.load(
        asked.lesson.base, loading.compute_dtype(chosen.dtype), nf4=False, attention=packing.ATTENTION
    )
    model.requires_grad_(False)
    tuned = methods.find(chosen.method).attach(model, chosen)
    _begin_with(tuned, asked.lesson)
    order = torch.randperm(asked.lesson.steps, generator=torch.Generator().manual_seed(chosen.seed)).tolist()
    bare: Any = tuned.get_base_model()
    keeper = Checkpoints(asked.out / "checkpoints", 1e9)
    result = training.fit(bare, Steps(asked.lesson, clock, order), [], chosen, keeper)
    clock.end_step()
    return clock.answer(metadata.version("tuneline"), [record.loss for record in result.history], asked.lesson)


def _begin_with(model: Any, given: Lesson) -> None:
    from benchmarks.peers.transformers_trainer import begin_with

    begin_with(model, given)


if __name__ == "__main__":
    lesson.answer(train(lesson.read()))
