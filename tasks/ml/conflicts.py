"""Conflicting gradients of several tasks projected off each other: PCGrad (Yu et al. 2020, arXiv 2001.06782, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tasks.core import events
from tasks.core.sections import TrainParams
from tasks.data.chatset import Tokens
from tasks.ml.masters import Masters
from tasks.ml.world import World

Gradient = Mapping[str, Tensor]
"""By parameter; what the task did not reach is not in it."""


class Tasks:
    """The gradients of a step, of all its rows together, or with `train.batch.pcgrad` task by task until they are joined."""

    def __init__(self, masters: Masters, world: World, params: TrainParams) -> None:
        self._masters, self._world, self._seed = masters, world, params.launch.seed
        self._on, self._apart = params.batch.pcgrad, list[dict[str, Tensor]]()
        self._found, self._pairs = 0, 0

    def of(self, batch: Sequence[Tokens]) -> list[list[Tokens]]:
        """A step's rows in the parts that `end` sets apart, alike in every process."""
        self._apart.clear()
        if not self._on:
            return [list(batch)]
        return [[row for row in batch if row.task == task] for task in sorted({row.task for row in batch})]

    def end(self) -> None:
        """All rows of a part are done."""
        if self._on:
            self._apart.append(self._masters.take_gradients())

    def join(self, step: int) -> None:
        """Leave the sums of all processes in the masters."""
        if not self._on:
            self._masters.sum_gradients(self._world)
            return
        for number, gradients in enumerate(self._apart):
            self._masters.put_gradients(gradients)
            self._masters.sum_gradients(self._world)
            self._apart[number] = self._masters.take_gradients()
        total, found = project(self._apart, torch.Generator().manual_seed(self._seed + step))
        self._masters.put_gradients(total)
        self._found, self._pairs = self._found + found, self._pairs + len(self._apart) * (len(self._apart) - 1)
        self._apart.clear()

    def tell(self) -> None:
        if not self._on:
            return
        events.note(f"PCGrad: a task's gradient conflicted with another's in {self._found} of {self._pairs} cases")
        if not self._pairs:
            events.warning(
                "no step had rows of two tasks, so train.batch.pcgrad changed nothing: see prepare.pack.tasks, train.batch.packs"
            )

    def state(self) -> list[int]:
        return [self._found, self._pairs]

    def restore(self, state: Sequence[int]) -> None:
        self._found, self._pairs = state


def project(gradients: Sequence[Gradient], draw: torch.Generator) -> tuple[dict[str, Tensor], int]:
    """The sum of all gradients, each first projected onto the normal plane of every other that it conflicts with, in an
    order drawn anew for each; and how many such projections there were.

    Law: where no two conflict, it is their plain sum.
    """
    total: dict[str, Tensor] = {}
    squares, found = [dot(gradient, gradient) for gradient in gradients], 0
    for number, gradient in enumerate(gradients):
        mine = {name: value.clone() for name, value in gradient.items()}
        for other in torch.randperm(len(gradients), generator=draw).tolist():
            overlap = 0.0 if other == number else dot(mine, gradients[other])
            if overlap < 0:
                found += 1
                _add(mine, gradients[other], -overlap / squares[other])
        _add(total, mine, 1.0)
    return total, found


def dot(one: Gradient, other: Gradient) -> float:
    """Inner product over all parameters."""
    return sum(torch.dot(value.flatten(), other[name].flatten()).item() for name, value in one.items() if name in other)


def _add(to: dict[str, Tensor], what: Gradient, times: float) -> None:
    for name, value in what.items():
        if name in to:
            to[name].add_(value, alpha=times)
        else:
            to[name] = value * times
