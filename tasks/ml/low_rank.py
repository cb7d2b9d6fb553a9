"""What PEFT's LoRA, DoRA and AdaLoRA layers compute, as the same few tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.adalora.layer import SVDLinear
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

ADAPTER = "default"


@dataclass(frozen=True)
class Part:
    """y = gain (x W' + scale (x A') B') + bias. Shapes: W (out, in), A (rank, in), B (out, rank), gain and bias (out,).

    `weight` gives W in the computing dtype, unpacking it where it is held in fewer bits.
    """

    weight: Callable[[], Tensor]
    a: Tensor
    b: Tensor
    scale: float
    gain: Tensor | None
    bias: Tensor | None


def member(layer: nn.Module) -> Callable[[], Part] | None:
    """How to ask this layer for its tensors at each call; None: it is none of those that `Part` describes."""
    any_layer: Any = layer
    if type(layer) not in (LoraLinear, SVDLinear, *_four_bit()) or not isinstance(any_layer.base_layer, nn.Linear):
        return None
    usual = (
        any_layer.active_adapters == [ADAPTER]
        and list(any_layer.lora_A) == [ADAPTER]
        and isinstance(any_layer.lora_dropout[ADAPTER], nn.Identity)
        and not any_layer.merged
    )
    if not usual:
        return None
    if isinstance(layer, SVDLinear):
        return None if any_layer.fan_in_fan_out else _AdaLora(any_layer)
    plain = not any_layer.lora_bias[ADAPTER] and not any_layer.fan_in_fan_out
    dora = any_layer.use_dora[ADAPTER]
    if not plain or (ADAPTER in any_layer.lora_variant and not dora):
        return None
    return _Lora(any_layer, dora)


def _four_bit() -> tuple[type, ...]:
    from peft.tuners.lora import bnb

    return (bnb.Linear4bit,) if hasattr(bnb, "Linear4bit") else ()


class _Dense:
    """The frozen weight of a layer, unpacked at each use where bitsandbytes holds it in 4 bits."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __call__(self) -> Tensor:
        weight = self._base.weight
        if getattr(weight, "quant_state", None) is None:
            return weight
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).to(self._base.compute_dtype)


class _Lora:
    def __init__(self, layer: Any, dora: bool) -> None:
        self._layer, self._dora = layer, dora
        self._weight = _Dense(layer.base_layer)
        self._norm = _Norm(self._weight) if dora else None

    def __call__(self) -> Part:
        layer = self._layer
        a, b, scale = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER]
        gain = None
        if self._norm is not None:
            gain = layer.lora_magnitude_vector[ADAPTER].weight.float() / self._norm(a, b, scale)
        return Part(self._weight, a, b, scale, gain, layer.base_layer.bias)


class _AdaLora:
    """P Lambda Q (Zhang et al. 2023, arXiv 2303.10512): PEFT holds Q in `lora_A`, Lambda in `lora_E`, P in `lora_B`."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._weight = layer, _Dense(layer.base_layer)

    def __call__(self) -> Part:
        layer = self._layer
        scale = layer.scaling[ADAPTER] / (layer.ranknum[ADAPTER].item() + 1e-5)
        a = layer.lora_A[ADAPTER] * layer.lora_E[ADAPTER]
        return Part(self._weight, a, layer.lora_B[ADAPTER], scale, None, layer.base_layer.bias)


class _Norm:
    """Row norms of W + s B A without B A: |W|^2 + 2 s sum(B o (W A')) + s^2 sum((B A A') o B), |W|^2 computed once.

    DoRA treats them as constants (Liu et al. 2024, arXiv 2402.09353, section 4.3), so they change only when A or B do.
    """

    def __init__(self, weight: Callable[[], Tensor]) -> None:
        self._weight = weight
        self._squares: Tensor | None = None
        self._key: tuple[int, ...] = ()
        self._value: Tensor | None = None

    def __call__(self, a: Tensor, b: Tensor, scale: float) -> Tensor:
        # What an evaluation's inference mode makes could not be kept for a backward pass later.
        with torch.inference_mode(False), torch.no_grad():
            if not (isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)):  # made anew at each call: no identity
                return self._norm(a, b, scale)
            key = (id(a), a._version, id(b), b._version)
            if self._value is None or self._key != key:
                self._key, self._value = key, self._norm(a, b, scale)
            return self._value

    def _norm(self, a: Tensor, b: Tensor, scale: float) -> Tensor:
        weight = self._weight()
        squares = self._squares
        if squares is None:
            squares = self._squares = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
        up = b.float()
        cross = (up * (weight @ a.t()).float()).sum(1)
        square = ((up @ (a.float() @ a.float().t())) * up).sum(1)
        return (squares + 2 * scale * cross + scale**2 * square).sqrt()
