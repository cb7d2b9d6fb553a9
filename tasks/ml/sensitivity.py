"""Which decoder blocks lose most when their weights are coarse: the ones to leave at higher precision."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.core import events
from tasks.data.chatset import Tokens
from tasks.ml import attention, blocks, fidelity, loading, packing
from tasks.ml.packing import Pack

ROWS = 4
"""Rows that each block is judged on: the differences between blocks are far larger than those between rows."""
SHARE = 0.25
"""Of the blocks, how many are named."""
GROUP = 32
LEVELS = 7
"""Round to nearest in 4 bits, a scale for each group of weights: near enough to every 4-bit format to rank blocks by."""


def most_sensitive(folder: Path, rows: Sequence[Tokens]) -> frozenset[str]:
    """Names of a quarter of the blocks: those whose coarse weights alone move the model's distributions most."""
    model = loading.load(folder, loading.compute_dtype("auto"), attention=attention.NAME)
    stack, pack = blocks.stack(model), packing.pack(rows[:ROWS])
    whole = _distributions(model, pack)
    costs: dict[str, float] = {}
    for number, (name, block) in enumerate(stack.items(), start=1):
        with _coarse(block):
            found = _distributions(model, pack)
        costs[name] = fidelity.divergence(whole, found).mean().item()
        events.progress("sensitivity of the layers", number, len(stack))
    ranked = sorted(costs, key=lambda name: (-costs[name], name))
    return frozenset(ranked[: math.ceil(SHARE * len(ranked))])


@torch.inference_mode()
def _distributions(model: PreTrainedModel, pack: Pack) -> Tensor:
    """Log-probabilities at the labelled tokens, shape (tokens, vocabulary)."""
    return torch.cat([chunk.log_softmax(-1) for chunk in packing.logits(model, pack)])


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
