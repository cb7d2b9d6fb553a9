"""Singular values of a product of two thin matrices, and how many of them count."""

from __future__ import annotations

import torch
from torch import Tensor


def of_product(b: Tensor, a: Tensor) -> Tensor:
    """The singular values of B A (largest first) without B A: of R_B R_A', where B = Q_B R_B and A' = Q_A R_A.

    Shapes: b (outputs, r), a (r, inputs); the result has as many values as the smallest of the three, in b's type.
    """
    return torch.linalg.svdvals(torch.linalg.qr(b, mode="r").R @ torch.linalg.qr(a.mT, mode="r").R.mT)


def effective_rank(values: Tensor) -> float | None:
    """exp of the entropy of the singular values' shares (Roy and Vetterli 2007, "The effective rank", equation 3).

    Law: between 1 and how many there are, whatever their scale. None where all are zero.
    """
    highest = values.max().item() if values.numel() else 0.0
    if highest == 0.0:
        return None
    shares = values.double() / highest
    shares = shares / shares.sum()
    return torch.special.entr(shares).sum().exp().item()
