"""The memory of a training, known before it: what stays is counted, what a step takes is seen on one and on two layers.

Layers of a kind take equally much, so a step of one of each kind, and one of each kind with a second, say what the
whole takes. That is the very code that trains: fused layers, any method and held bases need no formula of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core import events
from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams
from tasks.data.chatset import Packs, Tokens
from tasks.ml import blocks, masters, memory, optimizers, packing
from tasks.ml.live import Peak, peak
from tasks.ml.packing import Pack
from tasks.ml.tuned import Runner, Tuned
from tasks.ml.world import ALONE, World

MARGIN = 1.1
"""Allocators and kernels take a little more than tensors."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training, by part.

    process: the interpreter and its libraries; on a GPU, where only tensors are counted, none.
    weights: all of the model's, frozen or not. masters and gradients: in float32, of what trains.
    activations: what a forward and a backward pass hold; logits: of the head, in chunks, beside them.
    """

    process: int
    weights: int
    masters: int
    gradients: int
    optimizer: int
    best: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def settle(tuned: Tuned, train: Packs, params: TrainParams, world: World = ALONE) -> Memory:
    """Say what the training will take, and let activations be computed again where the params or the memory ask for it.

    Nothing is changed but that. Several processes decide alike: where one lacks memory, all compute again.
    """
    model: Any = tuned.runner.model
    pack = largest(train, params, share=tuned.runner.shares and not params.batch.neftune)
    held = memory.held()
    before = held + memory.unread(model.parameters())
    room = held + memory.room(params.launch.processes) / MARGIN
    if params.launch.recompute == "always":
        memory.recompute(model)
    found = _by_task(of(tuned, pack, params, before), train, params)
    if params.launch.recompute == "auto" and world.any(found.total > room) == [True]:
        events.note(
            f"{gb(found.total)} would not fit into {gb(room)}: activations are computed again in the backward pass"
        )
        memory.recompute(model)
        found = _by_task(of(tuned, pack, params, before), train, params)
    events.note(f"predicted memory: {gb(found.total)} ({tell(found)})")
    if found.total > room:
        events.warning(
            f"the training may need {gb(found.total)}, and {gb(room)} are there: if it ends for want of memory, "
            f"lower train.batch.micro_tokens (now {params.batch.micro_tokens})"
        )
    return found


def _by_task(found: Memory, train: Packs, params: TrainParams) -> Memory:
    """PCGrad holds a gradient for each task of a step (here those of the heaviest pack), one that it projects, and the sum."""
    if not params.batch.pcgrad:
        return found
    return replace(found, gradients=found.gradients * (2 + len({row.task for row in train[train.heaviest()]})))


def tell(found: Memory) -> str:
    return ", ".join(f"{name} {gb(size)}" for name, size in asdict(found).items() if size >= 5e6)


def gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def largest(train: Packs, params: TrainParams, *, share: bool = False) -> Pack:
    """The forward pass that takes most, of the pack whose rows attend to most."""
    rows = list[Tokens](train[train.heaviest()])
    groups = packing.groups(rows, params.batch.micro_tokens)
    return packing.pack(max(groups, key=lambda group: sum(len(row.ids) for row in group)), share=share)


def of(tuned: Tuned, pack: Pack, params: TrainParams, before: int) -> Memory:
    """The memory of a training whose largest forward pass is `pack`; `before`: what the process held, with all weights."""
    with _first_step(tuned) as trained:
        active = step(tuned.runner, pack)
        shapes = {name: value.shape for name, value in trained.items()}
        sizes = sum(value.numel() for value in trained.values())
        copies = 4 * sum(value.numel() for value in trained.values() if value.dtype != torch.float32)
        best = 4 * sizes if params.validation.keep == "best" else 0
        weights, tables = held_weights(tuned.runner.model), masters.tables(tuned.runner.model)
        return Memory(
            max(0, before - weights), weights, copies, 4 * sizes,
            optimizers.size(params.optimizer, shapes, tables), best, int(active.total - active.logits), int(active.logits),
        )  # fmt: skip


def held_weights(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, and of what bitsandbytes keeps beside packed ones."""
    found: dict[int, int] = {}
    for value in [*model.parameters(), *model.buffers()]:
        state: Any = getattr(value, "quant_state", None)
        for tensor in (value, *_scales(state)):
            found[id(tensor)] = tensor.nbytes
    return sum(found.values())


def _scales(state: Any) -> list[Tensor]:
    """The block scales of a quantised weight, themselves quantised where that was done twice."""
    if state is None:
        return []
    inner = state.state2 if state.nested else None
    return [state.absmax, *([] if inner is None else [inner.absmax])]


@contextmanager
def _first_step(tuned: Tuned) -> Generator[dict[str, nn.Parameter]]:
    """Just what trains in the first step requires gradients; the model in training mode, the random state as before."""
    every, names = tuned.trainable(), tuned.trains(1, ())
    model, random = tuned.runner.model, memory.random_state()
    was_training = model.training
    for name, value in every.items():
        value.requires_grad_(names is None or name in names)
    model.train()
    try:
        yield {name: value for name, value in every.items() if value.requires_grad}
    finally:
        model.train(was_training)
        for value in every.values():
            value.requires_grad_()
        memory.set_random_state(random)


def step(runner: Runner, pack: Pack) -> Peak:
    """What a forward and a backward pass over the pack hold at the most, with their gradients."""
    kinds = _kinds(runner)
    if sum(len(places) for places in kinds) <= 2 * len(kinds):
        return _run(runner, pack)
    first = [places[0] for places in kinds]
    with _only(runner, first):
        _run(runner, _short(pack))  # what is made once and kept belongs to no layer
        found = base = _run(runner, pack)
    for places in kinds:
        if len(places) > 1:
            with _only(runner, [*first, places[1]]):
                more = _run(runner, pack).plus(base, -1.0)
            found = found.plus(more, len(places) - 1)
    return found


def _short(pack: Pack) -> Pack:
    """Its first tokens as a row of their own, of which the second is a target."""
    ids = pack.ids[:, :8]
    return Pack(ids, torch.arange(ids.shape[1])[None], (ids.shape[1],), torch.tensor([0]), ids[0, 1:2])


def _run(runner: Runner, pack: Pack) -> Peak:
    model: Any = runner.model
    trained = [value for value in model.parameters() if value.requires_grad]

    def both() -> tuple[Tensor | None, ...]:
        total = runner.loss_sum(pack, 0.0)
        return torch.autograd.grad(total, trained, allow_unused=True) if total.requires_grad else (total,)

    return peak(both, model.config.get_text_config().vocab_size)


def _kinds(runner: Runner) -> list[list[int]]:
    """Places of layers that train alike, by kind; empty where the layers are not to be found."""
    try:
        layers = blocks.stack(runner.model)
    except ParamsError:
        return []
    kinds: dict[tuple[tuple[str, bool], ...], list[int]] = {}
    for place, layer in enumerate(layers.values()):
        kind = tuple((name, value.requires_grad) for name, value in layer.named_parameters())
        kinds.setdefault(kind, []).append(place)
    return list(kinds.values())


@contextmanager
def _only(runner: Runner, places: Sequence[int]) -> Generator[None]:
    """The model with these of its layers alone."""
    layers: Mapping[str, nn.Module] = blocks.stack(runner.model)
    name = next(iter(layers)).rpartition(".")[0]
    parent, _, attribute = name.rpartition(".")
    owner = runner.model.get_submodule(parent)
    whole = owner.get_submodule(attribute)
    setattr(owner, attribute, nn.ModuleList(layer for place, layer in enumerate(layers.values()) if place in places))
    try:
        yield
    finally:
        setattr(owner, attribute, whole)
