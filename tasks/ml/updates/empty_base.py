"""A base without weights in memory, whose modules get theirs for as long as they are needed."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core import weights
from tasks.ml import tensors
from tasks.ml.tensors import Stored
from tasks.ml.updates import ties


@dataclass(frozen=True)
class EmptyBase:
    """`names`: the modules' by their id, as they were before PEFT put its own around them. `first`: of each parameter's
    name, the one that it is listed under. `own`: what stands in place of the files' tensors."""

    model: Any
    names: Mapping[int, str]
    first: Mapping[str, str]
    known: frozenset[int]
    files: Mapping[str, Stored]
    own: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @classmethod
    def of(cls, base: Path, model: Any) -> EmptyBase:
        listed = {id(value): name for name, value in model.named_parameters()}
        first = {name: listed[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
        files = {name: it for shard in weights.shards(base) for name, it in tensors.stored(shard).items()}
        known = frozenset(id(value) for value in chain(model.parameters(), model.buffers()))
        return cls(model, {id(module): name for name, module in model.named_modules()}, first, known, files)

    def has(self, name: str) -> bool:
        return name in self.first

    def stored(self, name: str) -> Stored | None:
        """Where the files have the tensor that the model calls so; None: they have it in parts."""
        found = ties.find(name, self.files) or ties.find(self.first.get(name, name), self.files)
        return self.files[found] if found else None

    def values(self, module: nn.Module, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The module's tensors in float32, to be written over, `given` ones in place of the files'. One that the files
        have in parts is all zeros and takes no memory."""
        return {
            short: self._value(f"{self.names[id(module)]}.{short}", value.shape, (given or {}).get(short))
            for short, value in module.named_parameters(recurse=False)
        }

    def _value(self, name: str, shape: torch.Size, given: Tensor | None) -> Tensor:
        if name in self.own:
            return self.own[name].clone()
        if given is not None:
            return given.clone()
        place = self.stored(name)
        return torch.zeros(()).expand(shape) if place is None else place.read().float()

    @contextmanager
    def changing(self, module: nn.Module) -> Generator[None]:
        """The module with its values; what of them changes meanwhile is kept."""
        if not any(value.is_meta for value in module.parameters(recurse=False)):
            yield
            return
        before = self.values(module)
        with filled(
            module, {name: value.clone() if value.is_contiguous() else value for name, value in before.items()}
        ):
            yield
            self._keep(module, before)

    def _keep(self, module: nn.Module, before: Mapping[str, Tensor]) -> None:
        for short, value in module.named_parameters(recurse=False):
            if short in before and not torch.equal(value, before[short]):
                self.own[f"{self.names[id(module)]}.{short}"] = value.detach()

    def drop(self) -> None:
        """All that is in memory still; what differs from the files is kept."""
        for module in [module for module in self.model.modules() if id(module) in self.names]:
            there = {name: value for name, value in module.named_parameters(recurse=False) if not value.is_meta}
            if there:
                self._keep(module, self.values(module))
            for name, value in there.items():
                setattr(module, name, nn.Parameter(value.to("meta"), requires_grad=False))

    def lacks(self, tuned: nn.Module) -> bool:
        """Whether PEFT made something from tensors that were not there. Modules trained whole are in the adapter's file."""
        made = chain(tuned.named_parameters(), tuned.named_buffers())
        return any(
            value.is_meta and ".modules_to_save." not in name and id(value) not in self.known for name, value in made
        )


@contextmanager
def filled(module: nn.Module, values: Mapping[str, Tensor]) -> Generator[None]:
    """The module with these values; afterwards as it was."""
    before = {name: value for name, value in module.named_parameters(recurse=False) if name in values}
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
