"""What a change of a weight is made of: its directions, how much of the weight lies in them, and how much of them another
change shares. Hu et al. 2021, "LoRA" (arXiv 2106.09685), section 7."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGE = 2048
"""The side up to which all singular values of a weight are computed; above it the first ones, by subspace iteration."""
MORE, ROUNDS = 16, 8
"""Directions and rounds of that iteration beyond the wanted ones (Halko et al. 2011, arXiv 0909.4061)."""


@dataclass(frozen=True)
class Directions:
    """U diag(s) V' of a change, the largest first, those of no size left out. Shapes: u (outputs, n), s (n), v (inputs, n)."""

    u: Tensor
    s: Tensor
    v: Tensor

    def first(self, count: int) -> Directions:
        return Directions(self.u[:, :count], self.s[:count], self.v[:, :count])


def of_product(b: Tensor, a: Tensor) -> Directions:
    """Of B A, without making it. Shapes: b (outputs, r), a (r, inputs)."""
    left, right = torch.linalg.qr(b), torch.linalg.qr(a.mT)
    inner = of_matrix(left.R @ right.R.mT)
    return Directions(left.Q @ inner.u, inner.s, right.Q @ inner.v)


def of_matrix(change: Tensor) -> Directions:
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    there = s > s[:1] * max(change.shape) * torch.finfo(s.dtype).eps
    return Directions(u[:, there], s[there], v.mT[:, there])


@dataclass(frozen=True)
class Amplification:
    """Frobenius norms of a weight W projected onto n directions (Table 7): onto the change's `own`, U' W V; onto the
    `top` of W itself; onto `random` ones (the root mean square over all). `factor`: the change's norm over `own`.
    """

    own: float
    top: float
    random: float
    factor: float | None


def amplification(weight: Tensor, change: Directions) -> Amplification:
    """Section 7.3. How much the change amplifies what W has in the change's directions. Shapes: weight (outputs, inputs)."""
    outputs, inputs = weight.shape
    own = torch.linalg.matrix_norm(change.u.mT @ weight.to(change.u.dtype) @ change.v).item()
    count, size = len(change.s), torch.linalg.matrix_norm(change.s[None]).item()
    # For n uniformly random orthonormal directions on either side, E |U' W V|^2 = |W|^2 n^2 / (outputs inputs).
    random = torch.linalg.matrix_norm(weight.double()).item() * count / (outputs * inputs) ** 0.5
    return Amplification(own, top(weight, count), random, size / own if own else None)


def top(weight: Tensor, count: int) -> float:
    """|U' W V| in W's own first directions: the root of the sum of its largest squared singular values."""
    if min(weight.shape) > LARGE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values = torch.svd_lowrank(weight, q=min(count + MORE, *weight.shape), niter=ROUNDS)[1]
        return values[:count].double().square().sum().sqrt().item()
    wide = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().mT
    squares = torch.linalg.eigvalsh(wide @ wide.mT).flip(0)
    return squares[:count].clamp(min=0).sum().sqrt().item()


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """phi(i, j) = |U_i' U_j|^2 / min(i, j) for the first i and j of orthonormal directions (section 7.2, equation 4).

    Shapes: first (inputs, n), second (inputs, m), phi (n, m), its [0, 0] being phi(1, 1). Laws: 0 <= phi <= 1, and 1
    where one subspace holds the other; two random ones have max(i, j) / inputs.
    """
    shared = (first.double().mT @ second.double()).square().cumsum(0).cumsum(1)
    rows, columns = (torch.arange(1, count + 1) for count in shared.shape)
    return shared / torch.minimum(rows[:, None], columns[None])
