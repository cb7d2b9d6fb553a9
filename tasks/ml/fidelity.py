"""How near a finished format is to the 16-bit model it was made of, token for token on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tasks.core import events
from tasks.data.chatset import Tokens
from tasks.ml import head, serving
from tasks.ml.serving import Served

FAR = 1e4
"""Nats: how far a distribution is that is not made of numbers."""


@dataclass(frozen=True)
class Fidelity:
    """Over `tokens` labelled tokens of held-out rows. perplexity: the format's divided by the reference's.

    kl: mean Kullback-Leibler divergence of the format's next-token distributions from the reference's, in nats; kl_p99 its
    99th percentile. agreement: share of tokens where both find the same one likeliest. Four significant digits, so
    that a last bit does not make another manifest.
    """

    tokens: int
    perplexity: float
    kl: float
    kl_p99: float
    agreement: float

    @property
    def facts(self) -> dict[str, float]:
        return asdict(self)


def compare(reference: Served, judged: Served, rows: Sequence[Tokens], what: str) -> Fidelity:
    """Both models on the same rows, a row at a time. Law: a model compared with itself gives 1, 0, 0 and 1."""
    every = list[Tensor]()
    for number, row in enumerate(rows, start=1):
        wanted = serving.targets(row).split(head.CHUNK)
        every += [_chunk(*each) for each in zip(reference.logits(row), judged.logits(row), wanted, strict=True)]
        events.progress(what, number, len(rows))
    divergence, agreed, shift = torch.cat(every).double().unbind(1)
    return Fidelity(
        len(divergence), rounded(math.exp(min(shift.mean().item(), 700))), rounded(divergence.mean().item()),
        rounded(divergence.quantile(0.99).item()), rounded(agreed.mean().item()),
    )  # fmt: skip


def _chunk(expected: Tensor, found: Tensor, targets: Tensor) -> Tensor:
    """For each token its divergence, whether both agree, and how much more its loss is. Shape (tokens, 3)."""
    p, q = expected.log_softmax(-1), found.log_softmax(-1)
    agreed = (p.argmax(-1) == q.argmax(-1)).float()
    each = torch.stack([divergence(p, q), agreed, (p - q).gather(1, targets[:, None])[:, 0]], 1)
    return torch.where(q.isfinite().all(-1, keepdim=True), each, torch.tensor([FAR, 0.0, FAR]))


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of q from p in nats, both as log-probabilities of shape (tokens, vocabulary)."""
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
