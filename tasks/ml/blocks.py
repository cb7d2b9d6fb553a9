"""The parts of a decoder, found by what they are and not by the architecture's name: Llama, Qwen and GPT-2 are tested."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.core.errors import ParamsError


@dataclass(frozen=True)
class Block:
    """One layer of the stack: its full name, itself, and the names of its two halves within it."""

    name: str
    module: nn.Module
    attention: str
    feed_forward: str


def stack(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Full name -> layer, in order: the one outermost list with as many entries as the config has hidden layers.

    ParamsError: there is no such list, or more than one.
    """
    config: Any = model.config.get_text_config()
    found: list[str] = []
    for name, module in model.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers and not inner:
            found.append(name)
    if len(found) != 1:
        raise ParamsError(
            f"train.method: {type(model).__name__} has {len(found)} stacks of {config.num_hidden_layers} layers, "
            "one is needed: choose lora for this base"
        )
    return {f"{found[0]}.{place}": layer for place, layer in enumerate(_list(model, found[0]))}


def blocks(model: PreTrainedModel) -> list[Block]:
    """The stack with each layer's halves: of its children with matrices, the one whose forward takes a cache or a mask
    is the attention, the other one the feed-forward. ParamsError: the layers are made otherwise."""
    return [Block(name, module, *_halves(name, module)) for name, module in stack(model).items()]


def _halves(name: str, layer: nn.Module) -> tuple[str, str]:
    children = [key for key, child in layer.named_children() if any(value.ndim > 1 for value in child.parameters())]
    attention = [key for key in children if _attends(layer.get_submodule(key))]
    if len(children) != 2 or len(attention) != 1:
        raise ParamsError(
            f"train.method: the layer {name} ({type(layer).__name__}) is no attention with a feed-forward, it has "
            f"{', '.join(children) or 'no matrices'}: choose lora for this base"
        )
    return attention[0], next(key for key in children if key != attention[0])


def _attends(module: nn.Module) -> bool:
    return bool({"past_key_values", "attention_mask"} & inspect.signature(module.forward).parameters.keys())


def embeddings(model: PreTrainedModel) -> list[str]:
    """Names of the tensors that turn ids, and positions where they are learned, into the first hidden states."""
    inside = tuple(f"{name}." for name in stack(model))
    tables = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and not name.startswith(inside)
    }
    return [name for name, value in model.named_parameters() if id(value) in tables]


def head(model: PreTrainedModel) -> list[str]:
    """Names of the head's tensors; where it is tied to the embeddings, it is theirs."""
    module = model.get_output_embeddings()
    owned = {id(value) for value in module.parameters()} if module is not None else set[int]()
    return [name for name, value in model.named_parameters() if id(value) in owned]


def norms(model: PreTrainedModel) -> list[str]:
    """Names of the tensors that norm the hidden states: of each layer beside its halves, and around the stack."""
    halves = tuple(f"{block.name}.{half}." for block in blocks(model) for half in (block.attention, block.feed_forward))
    return [name for name, value in model.named_parameters() if value.ndim == 1 and not name.startswith(halves)]


def parameters(layers: dict[str, nn.Module]) -> list[str]:
    """Full names of these layers' tensors, in order."""
    return [f"{name}.{inner}" for name, layer in layers.items() for inner, _ in layer.named_parameters()]


def first(output: Tensor | tuple[Any, ...]) -> Tensor:
    """The hidden states of what a layer or one of its halves returned."""
    return output if isinstance(output, Tensor) else output[0]


def with_first(output: Tensor | tuple[Any, ...], states: Tensor) -> Tensor | tuple[Any, ...]:
    return states if isinstance(output, Tensor) else (states, *output[1:])


def _list(model: PreTrainedModel, name: str) -> nn.ModuleList:
    module = model.get_submodule(name)
    assert isinstance(module, nn.ModuleList)
    return module
