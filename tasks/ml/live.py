"""Bytes of tensors alive while something runs: what its allocations peak at, wherever and on whatever device it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Peak:
    """At the moment of most: bytes of all tensors made, and of those among them that are as wide as the vocabulary."""

    total: float
    logits: float

    def plus(self, other: Peak, times: float = 1.0) -> Peak:
        return Peak(self.total + times * other.total, self.logits + times * other.logits)


def peak(run: Callable[[], object], vocabulary: int) -> Peak:
    """Run it and watch. Tensors that were there before, and kernels' own scratch, are not seen."""
    with (watch := _Watch(vocabulary)):
        result = run()
    found = Peak(watch.most, watch.logits_then)
    del result  # what it returns counts as alive until here
    return found


class _Watch(TorchDispatchMode):
    """Counts a storage from the operation that returns it first until it is freed."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._alive: set[int] = set()
        self._now = self._logits = 0
        self.most = self.logits_then = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(value.untyped_storage()) for value in _strided((args, kwargs))}
        for value in _strided(out):
            self._meet(value, given)
        if self._now > self.most:
            self.most, self.logits_then = self._now, self._logits
        return out

    def _meet(self, value: Tensor, given: set[int]) -> None:
        storage = value.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive or key in given:
            return
        wide = size if value.ndim and value.shape[-1] == self._vocabulary else 0
        self._alive.add(key)
        self._now, self._logits = self._now + size, self._logits + wide
        weakref.finalize(storage, self._gone, key, size, wide)

    def _gone(self, key: int, size: int, wide: int) -> None:
        self._alive.discard(key)
        self._now, self._logits = self._now - size, self._logits - wide


def _strided(tree: object) -> list[Tensor]:
    """Its tensors but the sparse ones, which have no storage; their indices and values are tensors of their own."""
    return [value for value in tree_leaves(tree) if isinstance(value, Tensor) and value.layout == torch.strided]
