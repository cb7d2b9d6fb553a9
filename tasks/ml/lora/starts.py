"""Where A and B start: pure functions of a weight (outputs, inputs), a rank and the scale."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tasks.core import weights
from tasks.core.errors import ModelError


def pissa(weight: Tensor, rank: int, scale: float, iterations: int = 0) -> tuple[Tensor, Tensor]:
    """A and B of the principal part, scale B A = U_r S_r V_r^T (Meng et al. 2024, arXiv 2404.02948, equations 2 and 3).

    `iterations`: subspace iterations of the randomised decomposition; 0: the exact one.
    """
    if iterations:
        u, s, v = torch.svd_lowrank(weight, rank, niter=iterations)
        return _halves(u, s, v.T, scale)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return _halves(u[:, :rank], s[:rank], v[:rank], scale)


def olora(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B the first orthonormal columns of W = Q R, A the first rows of R (Büyükakyüz 2024, arXiv 2406.01775)."""
    q, r = torch.linalg.qr(weight)
    return r[:rank].contiguous(), q[:, :rank].contiguous()


def corda(eigens: object, scale: float) -> tuple[Tensor, Tensor]:
    """From PEFT's decomposition of W C, C the inputs' covariance, times the inverse of C (Yang et al. 2024, arXiv 2406.05223)."""
    u, s, v = (getattr(eigens, f"{part}_WC").float() for part in "USV")
    return _halves(u, s, v.T, scale)


def loftq(original: Tensor, held: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """What quantisation lost, as far as the rank goes: one step of LoftQ (Li et al. 2023, arXiv 2310.08659, algorithm 1).

    More steps would quantise another matrix than the base, and the adapter would fit the base no longer.
    """
    return pissa(original - held, rank, scale)


def original(folder: Path, layer: str, *, transposed: bool) -> Tensor:
    """A layer's weight (outputs, inputs) in float32 as the base's files hold it. ModelError: it is not there."""
    wanted = f"{layer}.weight"
    for shard in weights.shards(folder):
        for name in weights.header(shard):
            if name == wanted or wanted.endswith(f".{name}"):  # some files leave the model's own prefix away
                with safe_open(shard, "pt") as tensors:
                    weight: Tensor = tensors.get_tensor(name).float()
                return weight.T if transposed else weight
    raise ModelError(f"{folder} holds no {wanted}, which init: loftq compares with the quantised one")


def _halves(u: Tensor, s: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    root = (s / scale).sqrt()
    return (root[:, None] * v).contiguous(), (u * root).contiguous()
