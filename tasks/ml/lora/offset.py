"""LoRA pairs that don't start at zero, without touching the base: what trains counts from where it started.

PiSSA, OLoRA and CorDA start at B0 A0, cut out of the base: W = W_res + s B0 A0. In bfloat16 the rounding of W_res is as
large as what training changes, and an adapter trained on it fits no other base. Here W stays, and the layer adds
s (B A - B0 A0) = s [B - B0 | B0] [A ; A - A0]: a plain LoRA of twice the rank, exactly 0 at the start, with the gradients
of A and B unchanged. What is saved is what was trained, on the original base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ORIGINAL = ".parametrizations.weight.original"


class _Reading(nn.Module):
    """[A ; A - A0], of shape (2 rank, inputs)."""

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)

    def forward(self, a: Tensor) -> Tensor:
        return torch.cat([a, a - self.start])


class _Writing(nn.Module):
    """[B - B0 | B0], of shape (outputs, 2 rank)."""

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)

    def forward(self, b: Tensor) -> Tensor:
        return torch.cat([b - self.start, self.start], dim=1)


def start(layer: Any, a: Tensor, b: Tensor, adapter: str = "default") -> None:
    """Let a PEFT LoRA layer of rank 2r train `a` (r, inputs) and `b` (outputs, r) from these values."""
    for half, value, kind in ((layer.lora_A[adapter], a, _Reading), (layer.lora_B[adapter], b, _Writing)):
        rounded = half.weight.new_empty(value.shape).copy_(value.detach())
        half.weight = nn.Parameter(rounded.clone())
        parametrize.register_parametrization(half, "weight", kind(rounded), unsafe=True)  # unsafe: the shape changes


def plain(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state as a plain LoRA of twice the rank. Law: without such pairs nothing changes."""
    whole: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removesuffix(ORIGINAL)
        half: Any = model.get_submodule(name) if key.endswith(ORIGINAL) else None
        whole |= {key: value} if half is None else {f"{name}.weight": half.weight.detach()}
    return whole


def starts(model: nn.Module) -> dict[str, Tensor]:
    """Where the pairs started, for checkpoints: a resumed run must count from the same place."""
    return dict(_buffers(model))


def restore(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    for name, buffer in _buffers(model):
        buffer.copy_(saved[name])


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in model.named_modules():
        if isinstance(module, _Reading | _Writing):
            yield f"{name}.start", module.get_buffer("start")
