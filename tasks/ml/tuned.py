"""A model with a method on it: how it runs, what trains and when, what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.data.chatset import Reading
from tasks.ml import packing
from tasks.ml.packing import Pack


@dataclass(frozen=True)
class Runner:
    """How a model is run. `model` is bare: its layers carry what the method adds, it is no PEFT wrapper.

    `loss_sum(pack, noise)` is the cross-entropy summed over the pack's targets, a scalar in float32; `logits(pack)`
    what predicts them, as `packing.logits` gives it.
    `generate` is transformers' own, for methods that put something before the prompt PEFT's.
    `shares`: what rows begin with in common may be computed once a pack; no where a place's output depends on more
    than the tokens before it.
    """

    model: PreTrainedModel
    loss_sum: Callable[[Pack, float], Tensor]
    logits: Callable[[Pack], Iterator[Tensor]]
    generate: Callable[..., Any]
    shares: bool = False

    @classmethod
    def of(cls, model: Any) -> Runner:
        """A model that runs as it is."""
        loss_sum, logits = partial(packing.loss_sum, model), partial(packing.logits, model)
        return cls(model, loss_sum, logits, model.generate, shares=not _drops(model))


def _drops(model: nn.Module) -> bool:
    """Whether something in the model is dropped at random: then each row draws for itself."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


@dataclass(frozen=True)
class Ahead:
    """What a method may know of the run before it begins: its optimizer steps, and the packs it will see."""

    steps: int
    train: Reading


@dataclass(frozen=True)
class Moment:
    """After an optimizer step. `gradients` are what it used, clipped, in float32, by parameter name."""

    step: int
    steps: int
    gradients: Mapping[str, Tensor]


def _all(_step: int, _losses: Sequence[float]) -> None:
    return None


def _nothing(_moment: Moment) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Tuned:
    """What a method made of a frozen model. Parameters are named as `runner.model.named_parameters()` names them.

    save: writes the adapter into a folder; PEFT's format wherever PEFT has the method.
    rate: times the learning rate, for a parameter's name.
    trains: names that train in step n (from 1), given the losses of the steps before; None: all that require gradients.
        A function of its arguments alone, so that a resumed run chooses alike.
    penalty: added to the mean loss once an optimizer step, with gradients.
    after: may change weights in place after a step; gives the names of the trainable ones that it changed.
    state, restore: what `after` and `penalty` remember, for checkpoints.
    facts: what else a reader of the manifest should know, equal for equal work.
    """

    runner: Runner
    save: Callable[[Path], None]
    rate: Callable[[str], float] = field(default=lambda _name: 1.0)
    trains: Callable[[int, Sequence[float]], frozenset[str] | None] = _all
    penalty: Callable[[], Tensor] | None = None
    after: Callable[[Moment], Sequence[str]] = _nothing
    state: Callable[[], Mapping[str, Tensor]] = field(default=dict[str, Tensor])
    restore: Callable[[Mapping[str, Tensor]], None] = field(default=lambda _tensors: None)
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.runner.model.named_parameters() if value.requires_grad}
