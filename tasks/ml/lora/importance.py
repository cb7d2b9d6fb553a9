"""How much each layer matters to the task, before anything trains: from gradients or activations on a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.ml import packing
from tasks.ml.lora import sample
from tasks.ml.packing import Pack


def measure(
    model: PreTrainedModel, layers: Mapping[str, nn.Module], packs: list[Pack], by: str, top: int
) -> dict[str, float]:
    """Importance by layer, at least 0. `by` as in `allocate.by`; `top` is the highest rank that a layer may get."""
    if by == "variance":
        return variance(model, list(layers), packs, top)
    return gradients(model, layers, packs, {"sensitivity": sensitivity, "gradient": size}[by])


def sensitivity(gradient: Tensor, weight: Tensor) -> float:
    """Mean |gradient x weight|: how much the loss would change were the weights gone, to first order."""
    return (gradient * weight).abs().mean().item()


def size(gradient: Tensor, _weight: Tensor) -> float:
    """Root mean square of the gradient of the full weight."""
    return gradient.square().mean().sqrt().item()


def gradients(
    model: PreTrainedModel, layers: Mapping[str, nn.Module], packs: list[Pack], score: Callable[[Tensor, Tensor], float]
) -> dict[str, float]:
    """The mean over the packs of a layer's score. The full gradient of one layer exists at a time, never of all."""
    totals = dict.fromkeys(layers, 0.0)
    with ExitStack() as hooks:
        embeddings: Any = model.get_input_embeddings()
        hooks.callback(embeddings.register_forward_hook(_start).remove)
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(_watch(name, totals, score)).remove)
        for pack in packs:
            if len(pack.targets):
                (packing.loss_sum(model, pack) / len(pack.targets)).backward()
    return {name: total / len(packs) for name, total in totals.items()}


def _start(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
    """A frozen model has no gradients anywhere unless its embeddings ask for them."""
    output.requires_grad_()


def _watch(name: str, totals: dict[str, float], score: Callable[[Tensor, Tensor], float]) -> Callable[..., None]:
    def forward(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states = inputs[0].detach().flatten(0, -2)

        def backward(gradient: Tensor) -> None:
            full = (gradient.flatten(0, -2).T @ states).float()
            totals[name] += score(full, matrix(layer))

        output.register_hook(backward)

    return forward


def matrix(layer: nn.Module) -> Tensor:
    """The weight in float32, dequantised, of shape (outputs, inputs)."""
    from peft.utils.integrations import dequantize_module_weight

    weight: Tensor = dequantize_module_weight(layer).detach().float()
    return weight.T if isinstance(layer, Conv1D) else weight


def variance(model: PreTrainedModel, names: list[str], packs: list[Pack], top: int) -> dict[str, float]:
    """The ranks that EVA gives by explained variance of the layers' inputs, of which `top` is the highest."""
    rank = max(1, top // 2)
    found = sample.components(model, names, packs, rank, rho=top / rank)
    return {name: float(len(found[name])) for name in names}
