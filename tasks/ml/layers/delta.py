"""A linear layer of Delta-LoRA (Zi et al. 2023, arXiv 2309.02411).

The paper moves W by c s (B A - B' A') after each step, B' and A' being the values before it. From the values B_K, A_K at
its beginning on, that sum telescopes: W = W_0 + c s (B A - B_K A_K), at any time. So W itself is never touched, is held
in any precision, and the layer is W_0 x + s (1 + c) [B, -c/(1+c) B_K] [A; A_K] x: a LoRA of twice the rank.
The paper's A is this A transposed and so is its B: it writes x W + s x A B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tasks.ml import targets


class Delta(nn.Module):
    """`lora_A` (rank, inputs) is Kaiming-uniform, `lora_B` (outputs, rank) zero. `kept` is (A_K, B_K) once W moves."""

    def __init__(self, base_layer: nn.Module, rank: int, scale: float, ratio: float, dtype: torch.dtype) -> None:
        super().__init__()
        inputs, outputs = targets.sides(base_layer)
        device = next(base_layer.parameters()).device
        self.base_layer, self.scale, self.ratio = base_layer, scale, ratio
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.kept: tuple[Tensor, Tensor] | None = None

    def keep(self) -> None:
        """From now on W moves along."""
        self.kept = (self.lora_A.detach().clone(), self.lora_B.detach().clone())

    def halves(self) -> tuple[Tensor, Tensor, float]:
        """A, B and scale of the plain LoRA on W_0 that this layer is now; A (rank or twice it, inputs)."""
        if self.kept is None:
            return self.lora_A, self.lora_B, self.scale
        kept_a, kept_b = self.kept
        up = torch.cat([self.lora_B, kept_b * (-self.ratio / (1 + self.ratio))], dim=1)
        return torch.cat([self.lora_A, kept_a]), up, self.scale * (1 + self.ratio)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            down, up, outer = self.halves()
        out: Tensor = self.base_layer(x)
        shape = out.shape
        flat = (out.reshape(-1, shape[-1]), x.reshape(-1, x.shape[-1]))
        return _Moved.apply(*flat, self.lora_A, self.lora_B, down, up, outer, self.scale).view(shape)


class _Moved(torch.autograd.Function):
    """out + outer (x down^T) up^T, whose gradient reaches A and B through s B A alone, as W has none in the paper.

    Shapes: out (tokens, outputs), x (tokens, inputs), down (n, inputs), up (outputs, n); A and B are their first `rank`.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, x: Tensor, a: Tensor, _b: Tensor, down: Tensor, up: Tensor, outer: float, scale: float
    ) -> Tensor:
        inner = x @ down.T
        ctx.save_for_backward(x, inner, down, up)
        ctx.rank, ctx.outer, ctx.scale = a.shape[0], outer, scale
        return torch.addmm(out, inner, up.T, alpha=outer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, inner, down, up = ctx.saved_tensors
        (gradient,) = gradients
        back = gradient @ up
        to_x = (back @ down).mul_(ctx.outer) if ctx.needs_input_grad[1] else None
        to_a = (back[:, : ctx.rank].T @ x).mul_(ctx.scale)
        to_b = (gradient.T @ inner[:, : ctx.rank]).mul_(ctx.scale)
        return gradient, to_x, to_a, to_b, None, None, None, None
