"""Layers with a backward pass of their own give PEFT's and transformers' values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor

from tasks.ml import fused, head, loading, norm
from tasks.ml.low_rank import member

CONFIGS = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
    "rslora": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]),
    "patterns": LoraConfig(r=4, lora_alpha=8, rank_pattern={"k_proj": 2}, alpha_pattern={"up_proj": 3},
        target_modules="all-linear"),
    "dora": LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules="all-linear"),
    "adalora": AdaLoraConfig(init_r=4, target_r=2, lora_alpha=8, total_step=10, target_modules="all-linear"),
}  # fmt: skip


def tuned(base: Path, config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    model: Any = get_peft_model(loading.load(base, torch.float32), config, autocast_adapter_dtype=False)
    bare = model.get_base_model().to(dtype)
    with torch.no_grad():
        for name, value in bare.named_parameters():
            if "lora_B" in name or "lora_E" in name:
                value.normal_(std=0.3)
            if "magnitude" in name:
                value.mul_(1 + 0.1 * torch.randn_like(value))
    return bare.train()


def run(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.arange(3, 43)[None]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_fused_layers_are_pefts_own(tiny_base: Path, name: str) -> None:
    theirs, ours = tuned(tiny_base, CONFIGS[name]), tuned(tiny_base, CONFIGS[name])
    layers = sum(member(module) is not None for module in ours.modules())
    fused.fuse(ours)
    assert layers == (6 if name == "rslora" else 14)
    assert sum("_Call" in type(module.forward).__name__ for module in ours.modules()) == layers + 5  # and the norms
    loss, gradients = run(theirs)
    found, ours_gradients = run(ours)
    torch.testing.assert_close(found, loss, rtol=1e-6, atol=0)
    assert gradients.keys() == ours_gradients.keys() and len(gradients) >= 2 * layers
    for key, wanted in gradients.items():
        torch.testing.assert_close(
            ours_gradients[key], wanted, rtol=1e-4, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_layers_with_dropout_or_two_adapters_keep_their_own_forward(tiny_base: Path) -> None:
    config = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear")
    model = tuned(tiny_base, config)
    fused.fuse(model)
    assert not any(
        type(module.forward).__name__ == "_Call" for name, module in model.named_modules() if name.endswith("_proj")
    )


def test_the_norm_of_dora_follows_its_matrices(tiny_base: Path) -> None:
    """The cached row norms of W + s B A are those of the moment, to float32's precision."""
    model = tuned(tiny_base, CONFIGS["dora"])
    layer = model.model.layers[0].mlp.down_proj
    part = member(layer)
    assert part is not None
    for _ in range(2):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        rows = (layer.base_layer.weight + layer.scaling["default"] * b @ a).norm(dim=1)
        gain = layer.lora_magnitude_vector["default"].weight / rows
        torch.testing.assert_close(part().gain, gain, rtol=1e-6, atol=0)
        with torch.no_grad():
            b.add_(torch.randn_like(b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_transformers_own(tiny_base: Path, dtype: torch.dtype) -> None:
    model: Any = loading.load(tiny_base, dtype)
    model.requires_grad_(False)
    layer = model.model.norm
    with torch.no_grad():
        layer.weight.normal_()
    x = torch.randn(2, 5, 32, dtype=dtype, requires_grad=True)
    d_out = torch.randn(2, 5, 32, dtype=dtype)
    wanted = layer(x)
    (gradient,) = torch.autograd.grad(wanted, x, d_out)
    norm.fuse(layer)
    found = layer(x)
    assert type(layer.forward).__name__ == "_Call"
    torch.testing.assert_close(found, wanted)
    close = {"rtol": 0.02, "atol": 2e-3} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(torch.autograd.grad(found, x, d_out)[0], gradient, **close)


@pytest.mark.parametrize("rows", [1, 128, 300])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_chunked_loss_is_cross_entropy(rows: int, with_bias: bool) -> None:
    torch.manual_seed(2)
    states = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(50, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.randint(50, (rows,))
    leaves = [states, weight, *([bias] if bias is not None else [])]
    wanted = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(states, weight, bias), targets, reduction="sum"
    )
    found = head.loss_sum(states, weight, bias, targets)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * wanted, leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
