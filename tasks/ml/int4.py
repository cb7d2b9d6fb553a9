"""Four bits a weight with a scale and a zero a group: w ≈ (code - 8) * scale + zero, codes from 0 to 15.

The layout of torch's own int4 products and of torchao. Scale and zero are rounded to the dtype in which they are
stored before the codes are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = (64, 32)
"""Weights that share a scale: the first that divides a row. Smaller ones cost more bits, larger ones more precision."""
TOP = 15

POWER, STRENGTH, GROWTH, ROUNDS = 0.7, 10.0, 1.01, 20
"""Of the half-quadratic search, as its authors chose them: p, beta, kappa and how often."""
_AT_ONCE = 1 << 16
"""Weights searched together: what a round touches stays in the cache."""


@dataclass(frozen=True)
class Codes:
    """`codes` [rows, columns] in uint8; `scale` and `zero` [rows, columns / group]."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]

    def values(self) -> Tensor:
        """The weights that the codes stand for, in float32."""
        grouped = self.codes.float().unflatten(1, (-1, self.group)) - 8
        return (grouped * self.scale.float()[..., None] + self.zero.float()[..., None]).flatten(1)

    def nibbles(self) -> Tensor:
        """Two signed codes a byte, the first in the low half: int8 [rows, columns / 2]."""
        signed = self.codes.to(torch.int8) - 8
        return (signed[:, ::2] & 15) | (signed[:, 1::2] << 4)

    @classmethod
    def of(cls, nibbles: Tensor, scale: Tensor, zero: Tensor) -> Codes:
        """Law: `Codes.of(c.nibbles(), c.scale, c.zero)` is c."""
        halves = torch.stack([nibbles & 15, (nibbles >> 4) & 15], dim=-1).flatten(1)
        return cls(((halves + 8) & 15).to(torch.uint8), scale, zero)


Choice = Callable[[Tensor, int, torch.dtype], Codes]
"""How a matrix [rows, columns], the size of a group and the dtype of scale and zero become codes."""


def group_of(columns: int) -> int | None:
    return next((group for group in GROUPS if columns % group == 0), None)


def by_range(weight: Tensor, group: int, dtype: torch.dtype) -> Codes:
    """From each group's smallest to its largest weight. Law: no weight is off by more than half a step, but for the
    rounding of scale and zero to `dtype`."""
    grouped = weight.float().unflatten(1, (-1, group))
    low, high = grouped.amin(-1), grouped.amax(-1)
    scale = ((high - low) / TOP).clamp(min=1e-6).to(dtype)
    return _rounded(grouped, scale, (low + 8 * scale.float()).to(dtype))


def by_half_quadratic(weight: Tensor, group: int, dtype: torch.dtype) -> Codes:
    """The zero that makes the errors sparse: argmin over it of sum |w - w'|^p, p = 0.7, by half-quadratic splitting.

    Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", equations 3 to 5: the scale
    stays that of the range; what shrinkage leaves of the error is taken out before the zero is averaged anew.
    Law: no group's sum is larger than with the zero of its range.
    """
    step = max(1, _AT_ONCE // weight.shape[1])
    found = [_half_quadratic(part, group, dtype) for part in weight.split(step)]
    return Codes(
        *(torch.cat(list(values)) for values in zip(*((f.codes, f.scale, f.zero) for f in found), strict=True))
    )


def _half_quadratic(weight: Tensor, group: int, dtype: torch.dtype) -> Codes:
    start = by_range(weight, group, dtype)
    grouped, scale = weight.float().unflatten(1, (-1, group)), start.scale.float()[..., None]
    zero, strength = start.zero.float()[..., None], STRENGTH
    for _ in range(ROUNDS):
        nearest = (grouped - zero).div_(scale).round_().clamp_(-8, TOP - 8).mul_(scale)
        error = grouped - nearest - zero
        size = error.abs()
        outlying = (size - size.clamp(min=1e-8).pow_(POWER - 1).div_(strength)).clamp_(min=0).copysign_(error)
        zero = (grouped - outlying - nearest).mean(-1, keepdim=True)
        strength *= GROWTH
    found = _rounded(grouped, start.scale, zero[..., 0].to(dtype))
    better = _norm(grouped, found) < _norm(grouped, start)
    return _rounded(grouped, start.scale, torch.where(better, found.zero, start.zero))


def _rounded(grouped: Tensor, scale: Tensor, zero: Tensor) -> Codes:
    codes = ((grouped - zero.float()[..., None]) / scale.float()[..., None]).round() + 8
    return Codes(codes.clamp(0, TOP).to(torch.uint8).flatten(1), scale, zero)


def _norm(grouped: Tensor, codes: Codes) -> Tensor:
    return (grouped - codes.values().unflatten(1, (-1, codes.group))).abs().pow(POWER).sum(-1)
