"""One tensor changed in float32, rounded once, and what of its change is left after that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml import tensors
from tasks.ml.tensors import Stored
from tasks.ml.updates import Factors, Update

AT_ONCE = 1 << 17
"""Values of a block: its few arrays stay in a processor's second-level cache."""


@dataclass(frozen=True)
class Left:
    """Sums over a tensor's values of the stored change s and the learned change d: s d, s s, d d; how many values there
    are, and how many are the base's own still."""

    product: float = 0.0
    stored: float = 0.0
    learned: float = 0.0
    values: int = 0
    same: int = 0

    def __add__(self, other: Left) -> Left:
        return Left(
            self.product + other.product, self.stored + other.stored, self.learned + other.learned,
            self.values + other.values, self.same + other.same,
        )  # fmt: skip

    @property
    def survival(self) -> float:
        """Cosine of stored and learned change: 1 where rounding lost nothing, or where there was nothing to lose."""
        if not self.learned:
            return 1.0
        return min(1.0, self.product / math.sqrt(self.learned * self.stored)) if self.stored else 0.0


def in_blocks(update: Update) -> bool:
    """Whether some rows can be made without the others."""
    return update.factors is not None and update.factors.whole and update.origin is None


def write(
    source: Stored, update: Update, name: str, descriptors: tuple[int, int], place: int, dtype: torch.dtype
) -> Left:
    """Read the tensor from the first file, change it, write it at `place` of the second; what is left of the change.

    ModelError: base and adapter don't fit, or a value is not finite.
    """
    factors = update.factors
    if in_blocks(update) and factors is not None:
        return sum(_in_blocks(source, factors, name, descriptors, place, dtype), Left())
    before = source.read().float()
    if update.origin is not None:
        before = update.origin(before)
    after = update.value(before)
    rounded = after.to(dtype).contiguous()
    tensors.write_from(descriptors[1], rounded, place)
    return _left(name, before, after - before, rounded, update.origin is None and _is_exact(source, dtype))


def convert(source: Stored, name: str, descriptors: tuple[int, int], place: int, dtype: torch.dtype) -> None:
    """A tensor that did not change, in another type. ModelError: a value is not finite there."""
    size = math.prod(source.shape)
    read, rounded = torch.empty(min(size, AT_ONCE), dtype=source.dtype), torch.empty(min(size, AT_ONCE), dtype=dtype)
    for start in range(0, size, AT_ONCE):
        some, new = read[: size - start], rounded[: size - start]
        tensors.read_into(descriptors[0], some, source.place.start + start * source.dtype.itemsize)
        if not new.copy_(some).isfinite().all():
            raise _not_finite(name, some.float(), dtype)
        tensors.write_from(descriptors[1], new, place + start * dtype.itemsize)


def _in_blocks(
    source: Stored, factors: Factors, name: str, descriptors: tuple[int, int], place: int, dtype: torch.dtype
) -> Iterator[Left]:
    """W + B A, some rows at a time. PEFT's own merge multiplies by the scale after the product; where that is no power of
    two, the sum may differ from PEFT's by one unit in the last place."""
    left, right = factors.halves()
    if factors.turned:
        left, right = right.T.contiguous(), left.T.contiguous()
    if source.shape != (len(left), right.shape[1]):
        change = (right.shape[1], len(left)) if factors.turned else (len(left), right.shape[1])
        base = source.shape[::-1] if factors.turned else source.shape
        raise ModelError(f"{name}: the adapter's change is {change}, the base's weight {base}")
    rows, columns = source.shape
    height = max(1, min(rows, AT_ONCE // columns))
    read, rounded = torch.empty(height, columns, dtype=source.dtype), torch.empty(height, columns, dtype=dtype)
    before, change, after = torch.empty(3, height, columns)
    exact = _is_exact(source, dtype)
    for row in range(0, rows, height):
        count = min(height, rows - row)
        some, old, delta, sum_, new = (each[:count] for each in (read, before, change, after, rounded))
        tensors.read_into(descriptors[0], some, source.place.start + row * columns * source.dtype.itemsize)
        old.copy_(some)
        torch.mm(left[row : row + count], right, out=delta)
        new.copy_(torch.add(old, delta, out=sum_))
        yield _left(name, old, delta, new, exact, sum_)
        tensors.write_from(descriptors[1], new, place + row * columns * dtype.itemsize)


def _is_exact(source: Stored, dtype: torch.dtype) -> bool:
    return dtype in (source.dtype, torch.float32)


def _left(name: str, before: Tensor, learned: Tensor, rounded: Tensor, exact: bool, room: Tensor | None = None) -> Left:
    """What the rounded values keep of a change of `before`. exact: without any change rounding would have kept all of it;
    else the change counts from where it would have put the values. `room` is written over."""
    stored = torch.empty_like(before) if room is None else room
    stored.copy_(rounded).sub_(before if exact else before.to(rounded.dtype).float())
    flat, wanted = stored.view(-1), learned.reshape(-1)
    squares = torch.dot(flat, flat).item()
    if not math.isfinite(squares):
        raise _not_finite(name, before, rounded.dtype)
    moved = int(np.count_nonzero(np.not_equal(flat.numpy(), 0)))  # ten times as fast as torch's
    return Left(
        torch.dot(flat, wanted).item(), squares, torch.dot(wanted, wanted).item(), flat.numel(), flat.numel() - moved
    )


def _not_finite(name: str, before: Tensor, dtype: torch.dtype) -> ModelError:
    if not before.isfinite().all():
        return ModelError(f"{name}: the base's weight is not finite: fetch or make the base again")
    return ModelError(f"{name}: the merged weight is not finite in {dtype}: set merge.dtype=float32")
