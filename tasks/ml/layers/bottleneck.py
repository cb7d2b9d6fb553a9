"""The bottleneck of adapters: h + W_up act(W_down h + b_down) + b_up (Houlsby et al. 2019, arXiv 1902.00751, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.ml import blocks

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh,
}  # fmt: skip
SPREAD = 1e-2
"""Standard deviation of the weights at the start, cut at two of them (section 3.6): nearly the identity."""


class Bottleneck(nn.Module):
    """(..., hidden) to the same shape."""

    def __init__(self, hidden: int, size: int, activation: str, like: Tensor) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, size), nn.Linear(size, hidden)
        self.activate = ACTIVATIONS[activation]
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=SPREAD, a=-2 * SPREAD, b=2 * SPREAD)
            nn.init.zeros_(linear.bias)
        self.to(dtype=like.dtype, device=like.device)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.up(self.activate(self.down(states)))


def follow(half: nn.Module, bottleneck: Bottleneck) -> None:
    """Pass what the half of a layer returns through the bottleneck, before the residual connection, as its `adapter`."""
    half.add_module("adapter", bottleneck)
    half.register_forward_hook(_through)


def _through(half: nn.Module, _inputs: Any, output: Any) -> Any:
    adapter = half.get_submodule("adapter")
    return blocks.with_first(output, adapter(blocks.first(output)))
