"""What a training did to its base, tensor by tensor, and what two trainings have in common. Plain numbers come out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tasks.core import events, weights
from tasks.core.errors import ModelError
from tasks.ml import own_adapter, spectrum, subspaces, updates
from tasks.ml.subspaces import Directions
from tasks.ml.updates import Unmergeable, Update, Updates, lora, ties

MOST = 64
"""Directions that are looked at of a change that was not trained as two thin matrices."""


@dataclass(frozen=True)
class Moved:
    """A tensor that training changed. `change` is |dW|, `relative` |dW| / |W|, both Frobenius; None: |W| is 0.

    Of matrices: dW's effective rank, and with `directions` of its directions what `subspaces.Amplification` says.
    """

    name: str
    shape: tuple[int, ...]
    change: float
    relative: float | None
    effective_rank: float | None = None
    directions: int | None = None
    own: float | None = None
    top: float | None = None
    random: float | None = None
    amplification: float | None = None


@dataclass(frozen=True)
class Shared:
    """A matrix that two trainings changed: phi(k, k) of their input directions for k = 1, 2, ..., and what is due to chance.

    `of`: the directions are those of the adapters' A, as in the paper, or of the whole change dW.
    """

    name: str
    of: str
    phi: tuple[float, ...]
    chance: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """`grid[i][j]`: phi(i + 1, j + 1), its mean over the layers."""

    layers: tuple[Shared, ...]
    grid: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Change:
    """An update, and the base's tensor that it is of, in float32."""

    update: Update
    shard: Path
    source: str

    def before(self) -> Tensor:
        with safe_open(self.shard, "pt") as tensors:
            return tensors.get_tensor(self.source).float()


def changes(base: Path, adapter: Path, *, elsewhere: bool = False) -> Mapping[str, Change]:
    """By the tensor's name in the base's files. `elsewhere`: the adapter stands on another base, so only its factors count.

    ModelError: it changes no tensors, does not fit the base, or has no factors where only they count.
    """
    where = {name: shard for shard in weights.shards(base) for name in weights.header(shard)}
    try:
        found = _elsewhere(adapter) if elsewhere else updates.of(base, adapter)
    except Unmergeable as reason:
        raise ModelError(f"there is no change of weights to analyse: {reason}") from None

    def read(name: str) -> Tensor:
        with safe_open(where[name], "pt") as tensors:
            return tensors.get_tensor(name).float()

    plan = ties.plan(base, found, where, read)
    return {name: Change(place.update, where[place.source], place.source) for name, place in plan.places.items()}


def _elsewhere(adapter: Path) -> Updates:
    kin = None
    if not (adapter / own_adapter.CONFIG).is_file():
        kin = lora.updates(json.loads((adapter / "adapter_config.json").read_bytes()), adapter)
    if kin is None:
        raise ModelError("the two versions stand on different bases, and only LoRA and its kin can be compared then")
    return {name: update for name, update in kin.items() if update.factors}


def moved(found: Mapping[str, Change]) -> Iterator[Moved]:
    """What training did to each tensor. ModelError: the adapter's shapes are not the base's."""
    for number, (name, change) in enumerate(found.items(), start=1):
        before = change.before()
        difference = change.update.value(before) - before
        events.progress("analyze", number, len(found))
        yield _matrix(name, before, change, difference) if before.ndim == 2 else _vector(name, before, difference)


def _vector(name: str, before: Tensor, difference: Tensor) -> Moved:
    return Moved(name, tuple(before.shape), *_sizes(before, difference))


def _sizes(before: Tensor, difference: Tensor) -> tuple[float, float | None]:
    change, size = (torch.linalg.vector_norm(value, dtype=torch.float64).item() for value in (difference, before))
    return change, change / size if size else None


def _matrix(name: str, before: Tensor, change: Change, difference: Tensor) -> Moved:
    of = _directions(change, difference)
    if not len(of.s):
        return _vector(name, before, difference)
    factors = change.update.factors
    rank, of = spectrum.effective_rank(of.s), of if factors and factors.whole else of.first(MOST)
    within = subspaces.amplification(before.T if _turned(change) else before, of)
    return Moved(
        name, tuple(before.shape), *_sizes(before, difference), rank, len(of.s),
        within.own, within.top, within.random, within.factor,
    )  # fmt: skip


def _directions(change: Change, difference: Tensor) -> Directions:
    """Of dW as (outputs, inputs): exact from its factors where it is nothing else, for rounding adds directions of its own."""
    factors = change.update.factors
    if factors is not None and factors.whole:
        b, a = factors.halves()
        return subspaces.of_product(b.double(), a.double())
    return subspaces.of_matrix(difference.T if _turned(change) else difference)


def _turned(change: Change) -> bool:
    return change.update.factors is not None and change.update.factors.turned


def compare(first: Mapping[str, Change], second: Mapping[str, Change]) -> Comparison:
    """Input directions of every matrix that both changed. ModelError: there is none."""
    layers: list[Shared] = []
    grids: list[Tensor] = []
    for name in sorted(first.keys() & second.keys()):
        pair = first[name], second[name]
        of = "A" if all(change.update.factors for change in pair) else "dW"
        sides = [_inputs(change, of) for change in pair]
        if any(side is None or not side.numel() for side in sides):
            continue
        grid = subspaces.similarity(*(side for side in sides if side is not None))
        inputs, phi = len(sides[0] if sides[0] is not None else ()), tuple(grid.diagonal().tolist())
        layers.append(Shared(name, of, phi, tuple((k + 1) / inputs for k in range(len(phi)))))
        grids.append(grid)
    if not layers:
        raise ModelError("the two versions changed no matrix in common, so there is nothing to compare")
    return Comparison(tuple(layers), _mean(grids))


def _inputs(change: Change, of: str) -> Tensor | None:
    """Orthonormal directions (inputs, n) of what reads the layer's inputs; None: the tensor is no matrix."""
    factors = change.update.factors
    if of == "A" and factors is not None:
        return subspaces.of_matrix(factors.halves()[1].double()).v
    before = change.before()
    if before.ndim != 2:
        return None
    return _directions(change, change.update.value(before) - before).first(MOST).v


def _mean(grids: Sequence[Tensor]) -> tuple[tuple[float, ...], ...]:
    """Over the layers, as far as all of them have directions."""
    rows, columns = (min(grid.shape[side] for grid in grids) for side in (0, 1))
    mean = torch.stack([grid[:rows, :columns] for grid in grids]).mean(0)
    return tuple(tuple(row) for row in mean.tolist())
