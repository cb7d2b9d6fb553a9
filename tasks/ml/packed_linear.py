"""torchao's packed weights in a transformers model: put in, saved as safetensors, and laid out for the processor.

torchao's plain int4 layout is what vLLM and transformers load on a GPU, where `mslk` multiplies it; a processor has
another one, made at loading. Both hold the same codes, scales and zeros.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TorchAoConfig
from transformers.quantizers.auto import AutoHfQuantizer

from tasks.core import weights
from tasks.ml import int4, loading, saved
from tasks.ml.int4 import Choice, Codes

ROWS = 16
"""torch's int4 product on a processor takes rows in these portions."""


@dataclass(frozen=True)
class Packing:
    """`config`: how torchao calls it. `weight`: a packed one for a matrix, or None where its width does not allow it.
    `bits`: most a weight may take in the files."""

    config: Any
    weight: Callable[[Tensor], Tensor | None]
    bits: float


def eight() -> Packing:
    """Symmetric, a scale a row."""
    ao = _torchao("quantization")

    def pack(weight: Tensor) -> Tensor:
        return ao.Int8Tensor.from_hp(weight, granularity=ao.PerRow())

    return Packing(ao.Int8WeightOnlyConfig(set_inductor_config=False), pack, bits=12)


def four(choose: Choice) -> Packing:
    """A scale and a zero a group, as `choose` finds them."""
    ao = _torchao("quantization")

    def pack(weight: Tensor) -> Tensor | None:
        group = int4.group_of(weight.shape[1])
        if group is None:
            return None
        found = choose(weight, group, weight.dtype)
        scale, zero = found.scale.t().contiguous(), found.zero.t().contiguous()
        return ao.Int4Tensor(found.nibbles(), scale, zero, [1, group], weight.shape)

    return Packing(ao.Int4WeightOnlyConfig(group_size=int4.GROUPS[0], set_inductor_config=False), pack, bits=5.5)


@torch.no_grad()
def write(merged: Path, into: Path, keep: Collection[str], packing: Packing) -> dict[str, Any]:
    """Pack the linear layers of the decoder blocks, save, and look at what was saved."""
    saved.check_plain(merged)
    model: Any = loading.load(merged, saved.dtype(merged))
    left = [*saved.heads(model), *sorted(keep)]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not saved.within(name, left):
            weight = packing.weight(module.weight)
            if weight is None:
                left.append(name)
            else:
                module.weight = nn.Parameter(weight, requires_grad=False)
    config = TorchAoConfig(packing.config, modules_to_not_convert=left)
    model.hf_quantizer = AutoHfQuantizer.from_config(config)
    model.config.quantization_config = config
    saved.write(model, merged, into)
    for shard in weights.shards(into):  # torchao describes every weight there
        weights.sort_metadata(shard)
    return saved.look(merged, into, keep, packing.bits)


def load(folder: Path, dtype: torch.dtype) -> Any:
    """The model as it computes on this machine in `dtype`."""
    model = loading.load(folder, dtype)
    if loading.device().type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight = nn.Parameter(_for_processor(module.weight, dtype), requires_grad=False)
    return model


@torch.no_grad()
def _for_processor(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The int4 product reads packed weights in bfloat16; in float32 it is slower than the plain one by far."""
    packed: Any = weight
    if not isinstance(packed, _torchao("quantization").Int4Tensor):
        return weight
    codes = Codes.of(packed.qdata, packed.scale.t(), packed.zero_point.t())
    if dtype == torch.float32 or len(codes.codes) % ROWS:
        return codes.values().to(dtype)
    laid_out = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.codes.int(), 1)
    both = torch.stack([packed.scale, packed.zero_point], dim=-1).to(dtype).contiguous()
    opaque = _torchao("prototype.quantization.int4.int4_opaque_tensor").Int4OpaqueTensor
    return opaque(laid_out, both, packed.block_size, packed.shape)


def _torchao(name: str) -> Any:
    """A module of torchao, which is installed where a format needs it."""
    return importlib.import_module(f"torchao.{name}")
