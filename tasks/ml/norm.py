"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) with its backward pass written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def fuse(module: nn.Module) -> None:
    """Give the module this forward, if it is an RMSNorm that computes just this: a probe says so."""
    layer: Any = module
    if not type(module).__name__.endswith("RMSNorm") or not hasattr(layer, "variance_epsilon"):
        return
    probe = torch.linspace(-3, 3, 4 * len(layer.weight), device=layer.weight.device, dtype=layer.weight.dtype)
    probe = probe.view(4, -1)
    wanted, found = layer(probe), _Call(layer)(probe)
    if not layer.weight.requires_grad and torch.allclose(wanted, found, rtol=4 * torch.finfo(wanted.dtype).eps):
        layer.forward = _Call(layer)


class _Call:
    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return _RmsNorm.apply(x, self._layer.weight, self._layer.variance_epsilon)  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    """y = w x / rms(x), normalised in float32 and rounded before the product with w. The weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = x.shape[-1]
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = squares.div_(size).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """dx = r (g - n mean(g n)) with g = w dy, n = r x, r = 1 / rms(x)."""
        (gradient,) = gradients
        x, weight, scale = ctx.saved_tensors
        normed, inner = x * scale, gradient * weight.float()
        mean = (inner * normed).mean(-1, keepdim=True)
        return inner.addcmul_(normed, mean, value=-1).mul_(scale).to(x.dtype), None, None
