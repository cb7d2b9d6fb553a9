"""Which decoder blocks lose most when their weights are coarse: the ones to leave at higher precision."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tasks.core import events
from tasks.data.chatset import Tokens
from tasks.ml import blocks, loading, serving
from tasks.ml.tuned import Runner

ROWS = 4
"""Rows that each block is judged on: the differences between blocks are far larger than those between rows."""
SHARE = 0.25
"""Of the blocks, how many are named."""
GROUP = 32
LEVELS = 7
"""Round to nearest in 4 bits, a scale for each group of weights: near enough to every 4-bit format to rank blocks by."""


def most_sensitive(folder: Path, rows: Sequence[Tokens]) -> frozenset[str]:
    """Names of a quarter of the blocks: those whose coarse weights alone move the model's distributions most."""
    model = loading.load(folder, loading.compute_dtype("auto"))
    stack, rows = blocks.stack(model), rows[:ROWS]
    whole = _distributions(model, rows)
    costs: dict[str, float] = {}
    for number, (name, block) in enumerate(stack.items(), start=1):
        with _coarse(block):
            costs[name] = _divergence(whole, _distributions(model, rows))
        events.progress("sensitivity of the layers", number, len(stack))
    ranked = sorted(costs, key=lambda name: (-costs[name], name))
    return frozenset(ranked[: math.ceil(SHARE * len(ranked))])


def _distributions(model: Any, rows: Sequence[Tokens]) -> list[Tensor]:
    """Log-probabilities at the labelled tokens of each row, shape (tokens, vocabulary)."""
    served = serving.by_transformers(Runner.of(model))
    return [torch.cat([chunk.log_softmax(-1) for chunk in served.logits(row)]) for row in rows]


def _divergence(whole: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    return torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(whole, found, strict=True)]).mean().item()


@contextmanager
def _coarse(block: nn.Module) -> Generator[None]:
    """The block's matrices in 4 bits for as long as the context lasts."""
    kept = [(module.weight, module.weight.data) for module in block.modules() if isinstance(module, nn.Linear | Conv1D)]
    for weight, values in kept:
        weight.data = _rounded(values)
    try:
        yield
    finally:
        for weight, values in kept:
            weight.data = values


def _rounded(weight: Tensor) -> Tensor:
    """A last group that is not full is rounded as if zeros filled it."""
    flat = weight.float().flatten()
    groups = nn.functional.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    scales = groups.abs().amax(1, keepdim=True).clamp_min(1e-12) / LEVELS
    return ((groups / scales).round() * scales).flatten()[: len(flat)].view_as(weight).to(weight.dtype)
