"""The head and the loss in chunks, gradients made on the way: no logits of the whole pack ever exist.

As in Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989): the gradient of softmax and
cross-entropy is known once the logits are, so both are done while a chunk is in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 128
"""Predictions at a time."""


def loss_sum(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the targets, a scalar in float32. Shapes: states (n, hidden), weight (vocabulary, hidden)."""
    return _ChunkedLoss.apply(states, weight, bias, targets)  # type: ignore[no-any-return]


class _ChunkedLoss(torch.autograd.Function):
    """Gradients with respect to states, and to weight and bias where they train."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        wants = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        d_states = torch.empty_like(states) if wants[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants[2] else None
        for start in range(0, len(states), CHUNK):
            chunk, wanted = states[start : start + CHUNK], targets[start : start + CHUNK, None]
            logits = torch.nn.functional.linear(chunk, weight, bias).float()
            logs = logits.logsumexp(-1, keepdim=True)
            total += (logs - logits.gather(1, wanted)).sum()
            if not any(wants[:3]):
                continue
            gradient = logits.sub_(logs).exp_()
            gradient.scatter_add_(1, wanted, gradient.new_full((1, 1), -1.0).expand(len(wanted), 1))
            if d_bias is not None:
                d_bias += gradient.sum(0)
            rounded = gradient.to(states.dtype)
            if d_states is not None:
                torch.mm(rounded, weight, out=d_states[start : start + CHUNK])
            if d_weight is not None:
                d_weight += rounded.t() @ chunk
        ctx.save_for_backward(d_states, d_weight, d_bias)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = gradients
        d_states, d_weight, d_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if d_states is None else d_states * scale.to(d_states.dtype),
            None if d_weight is None else (d_weight * scale).to(weight_dtype),
            None if d_bias is None else (d_bias * scale).to(bias_dtype),
            None,
        )
