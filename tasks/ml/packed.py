"""A frozen base whose linear layers stay in their GGUF file's own blocks and are unpacked where they are used.

QLoRA (Dettmers et al. 2023, arXiv 2305.14314) quantises a 16-bit base again and so trains beside a worse one. A base
that comes quantised needs no second loss: W is unpacked from the same blocks as the 16-bit weights were, rounded to
bfloat16 as they are, and forgotten after the product. What is held is 4.5 to 8.5 bits a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.core import weights
from tasks.core.errors import ModelError
from tasks.ml import loading
from tasks.ml.gguf_base import kept
from tasks.ml.gguf_base.blocks import Kind, Library

_TORCH = Library(half=torch.float16, signed=torch.int8, single=torch.Tensor.float)

_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Values unpacked in one go: their float32 should stay in a cache, but fill a GPU."""


@torch.no_grad()
def unpack(blocks: Tensor, kind: Kind, dtype: torch.dtype) -> Tensor:
    """The weight [outputs, inputs] of `blocks` [outputs, bytes], rounded to bfloat16 and given in `dtype`."""
    outputs, flat = blocks.shape[0], blocks.view(-1, kind.size)
    weight = torch.empty(flat.shape[0], kind.elements, dtype=dtype, device=blocks.device)
    step = _AT_ONCE.get(blocks.device.type, 1 << 25) // kind.elements
    values = torch.empty(min(step, flat.shape[0]), kind.elements, device=blocks.device)
    assert kind.unpack is not None
    for start in range(0, flat.shape[0], step):
        some = flat[start : start + step]
        kind.unpack(some, values[: len(some)], _TORCH)
        read = values[: len(some)]
        weight[start : start + step] = read if dtype == torch.bfloat16 else read.bfloat16()
    return weight.view(outputs, -1)


class Unpacked(Tensor):
    """Stands for a packed layer's weight: has its shape, type and device, and is unpacked by whatever computes with it.

    Libraries look at a weight many times without reading it. What is written into it would be lost, so it is refused.
    """

    # The subclass takes part below autograd only; results are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportPrivateUsage, reportAssignmentType]

    @staticmethod
    def __new__(
        cls: type[Unpacked], blocks: Tensor, kind: Kind, shape: tuple[int, int], dtype: torch.dtype
    ) -> Unpacked:
        return Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=blocks.device)  # pyright: ignore[reportPrivateUsage, reportReturnType]  torch's one way

    def __init__(self, blocks: Tensor, kind: Kind, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self._blocks, self._kind = blocks, kind

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable and isinstance(args[0], cls):
            _refuse_writing()
        return func(*tree_map(cls._read, args), **tree_map(cls._read, kwargs or {}))

    @classmethod
    def _read(cls, value: Any) -> Any:
        return unpack(value._blocks, value._kind, value.dtype) if isinstance(value, cls) else value

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        _refuse_writing()


def _refuse_writing() -> NoReturn:
    raise ModelError(
        "a packed base can't be changed: merge into the 16-bit base, and leave out initialisations that alter the "
        "base (pissa, olora, loftq, corda)"
    )


class _Product(torch.autograd.Function):
    """x W^T + b; neither pass leaves W behind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Tensor, bias: Tensor | None, kind: Kind) -> Tensor:
        ctx.save_for_backward(blocks)
        ctx.kind = kind
        return nn.functional.linear(x, unpack(blocks, kind, x.dtype), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), (blocks,) = gradients, ctx.saved_tensors
        wanted, _, bias, _ = ctx.needs_input_grad
        return (
            gradient @ unpack(blocks, ctx.kind, gradient.dtype) if wanted else None,
            None,
            gradient.reshape(-1, gradient.shape[-1]).sum(0) if bias else None,
            None,
        )


class PackedLinear(nn.Linear):
    """A frozen `nn.Linear` that holds `blocks` [outputs, bytes] uint8 in place of a weight.

    Law: output and gradients equal those of a plain layer with the bfloat16 weight that was unpacked from the blocks.
    `weight` is for those who must see it whole (DoRA's norms): in `dtype`, unpacked anew by every computation.
    """

    def __init__(self, blocks: Tensor, kind: Kind, inputs: int, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make the weight
        self.in_features, self.out_features, self.kind, self.dtype = inputs, blocks.shape[0], kind, dtype
        self.register_buffer("blocks", blocks)
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]  it is no parameter here
        shape = (self.out_features, self.in_features)
        return Unpacked(cast("Tensor", self.blocks), self.kind, shape, self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return cast("Tensor", _Product.apply(input, self.blocks, self.bias, self.kind))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind.name}"


def load(folder: Path, dtype: torch.dtype, *, attention: str = "sdpa") -> PreTrainedModel:
    """The base of a folder with its linear layers packed, everything else in `dtype`; no whole weight is ever held.

    ModelError: the folder keeps no blocks, or they don't fit its model.
    """
    index = kept.read(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ModelError(f"{folder} can't be loaded as a causal language model: {error}") from None
    _pack(model, folder, index, dtype)
    _fill(model, folder, dtype)
    return model.to(loading.device()).eval()  # pyright: ignore[reportArgumentType]  transformers wraps `to`


def _pack(model: PreTrainedModel, folder: Path, index: Mapping[str, kept.Weight], dtype: torch.dtype) -> None:
    """Put packed layers in the places of the plain ones, which hold nothing yet."""
    modules = dict(model.named_modules())
    with safe_open(folder / kept.FOLDER / kept.BLOCKS, "pt") as stored:
        for name, weight in index.items():
            place = name.removesuffix(".weight")
            if _sides(modules.get(place)) != (weight.outputs, weight.inputs):
                raise ModelError(f"{folder}: the packed {name} doesn't fit the model: fetch the base again")
            bias = cast("nn.Parameter | None", modules[place].bias)
            layer = PackedLinear(stored.get_tensor(name), weight.kind, weight.inputs, bias, dtype)
            model.set_submodule(place, layer)


def _sides(module: nn.Module | None) -> tuple[int, int] | None:
    """Outputs and inputs of a linear layer; GPT-2's lie on their side."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return (module.nf, module.nx) if isinstance(module, Conv1D) else None


def _fill(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Give every parameter that is left its values."""
    empty = {name for name, value in model.named_parameters() if value.is_meta}
    found: dict[str, Tensor] = {}
    for shard in weights.shards(folder):
        with safe_open(shard, "pt") as stored:
            found |= {name: stored.get_tensor(name).to(dtype) for name in empty & set(weights.header(shard))}
    model.load_state_dict(found, strict=False, assign=True)
    model.tie_weights()
    lost = [name for name, value in model.named_parameters() if value.is_meta]
    if lost:
        raise ModelError(f"{folder} has no values for {lost[0]}: fetch the base again")
