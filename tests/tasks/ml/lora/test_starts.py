"""Starts: PEFT's own values, counted from where they begin so that the base stays as it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import Tensor

from tasks.ml import loading, packing
from tasks.ml.lora import importance, offset, sample, starts
from tasks.ml.lora.sections import LoraOptions
from tests import adapting

RANK, ALPHA = 4, 12.0
SCALE = ALPHA / RANK
ACTING = ["pissa", "olora", "corda", "corda_kpm"]
"""Starts that cut A and B out of the base's weights."""


def pefts(folder: Path, start: str) -> Any:
    """PEFT's own model: A, B and what they leave of the base."""
    wanted = adapting.params("lora")
    model = adapting.base(folder, wanted)
    method = {"corda_config": CordaConfig(corda_method="kpm" if start == "corda_kpm" else "ipm")}
    config = LoraConfig(
        r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear", task_type="CAUSAL_LM",
        init_lora_weights="corda" if "corda" in start else start, **(method if "corda" in start else {}),
    )  # fmt: skip
    if "corda" in start:
        packs = sample.take(adapting.PACKS, LoraOptions().sample)
        config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        preprocess_corda(model, config, run_model=lambda: sample.run(model, packs))
    torch.manual_seed(3)
    return get_peft_model(model, config, autocast_adapter_dtype=False).get_base_model()


def ours(folder: Path, start: str) -> Any:
    wanted = adapting.params("lora", init=start).model_copy(update={"alpha": ALPHA})
    from tasks.ml import methods

    method, options = methods.find(wanted)
    frozen = adapting.base(folder, wanted)
    torch.manual_seed(3)
    return method.attach(frozen, wanted, options, adapting.Ahead(10, adapting.PACKS)).runner.model


def layers(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def leaf(half: Any) -> Tensor:
    return half["default"].parametrizations.weight.original


def backward(model: Any) -> None:
    packing.loss_sum(model.train(), adapting.PROBE).backward()


@pytest.mark.parametrize("start", ACTING)
def test_a_start_is_pefts_and_the_base_stays(tiny_base: Path, start: str) -> None:
    theirs, mine = layers(pefts(tiny_base, start)), layers(ours(tiny_base, start))
    original = layers(adapting.attach(tiny_base, adapting.params("lora")).runner.model)
    assert len(mine) == 14
    for name, layer in mine.items():
        weight = layer.base_layer.weight
        a, b = leaf(layer.lora_A), leaf(layer.lora_B)
        assert torch.equal(weight, original[name].base_layer.weight)
        torch.testing.assert_close(a, theirs[name].lora_A["default"].weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(b, theirs[name].lora_B["default"].weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weight - SCALE * b @ a, theirs[name].base_layer.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", ACTING)
def test_the_function_and_the_gradients_are_pefts(tiny_base: Path, start: str) -> None:
    theirs, mine = pefts(tiny_base, start), ours(tiny_base, start)
    torch.testing.assert_close(adapting.probe(mine), adapting.probe(theirs), rtol=1e-4, atol=1e-5)
    backward(theirs)
    backward(mine)
    wanted = layers(theirs)
    for name, layer in layers(mine).items():
        for half in ("lora_A", "lora_B"):
            found, there = leaf(getattr(layer, half)).grad, getattr(wanted[name], half)["default"].weight.grad
            assert found is not None
            torch.testing.assert_close(found, there, rtol=1e-3, atol=1e-4)


def test_the_randomised_decomposition_comes_to_the_exact_one(tiny_base: Path) -> None:
    torch.manual_seed(1)
    u, s, v = torch.linalg.svd(torch.randn(24, 16), full_matrices=False)
    weight = u * s * 0.5 ** torch.arange(16) @ v
    (a, b), (exact_a, exact_b) = starts.pissa(weight, RANK, SCALE, 16), starts.pissa(weight, RANK, SCALE)
    torch.testing.assert_close(b @ a, exact_b @ exact_a, rtol=1e-4, atol=1e-5)
    for layer in layers(ours(tiny_base, "pissa_niter_16")).values():
        a, b, base = leaf(layer.lora_A).double(), leaf(layer.lora_B).double(), layer.base_layer.weight.double()
        left = (base - SCALE * b @ a).norm()
        assert left < 1.05 * torch.linalg.svdvals(base)[RANK:].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_added_at_the_start_and_the_change_is_exact_after(dtype: torch.dtype) -> None:
    """s (B A - B0 A0) in float64, of halves as they are rounded (arXiv 2404.02948); at the start exactly nothing."""
    torch.manual_seed(1)
    base = torch.nn.Sequential(torch.nn.Linear(24, 16)).to(dtype)
    layer: Any = get_peft_model(base, LoraConfig(r=8, lora_alpha=8, target_modules=["0"]), autocast_adapter_dtype=False)
    layer = layer.base_model.model[0]
    offset.start(layer, *starts.pissa(base[0].weight.float(), 4, 1.0))
    half_a, half_b = layer.lora_A["default"], layer.lora_B["default"]
    a0, b0 = leaf(layer.lora_A).detach().clone().double(), leaf(layer.lora_B).detach().clone().double()
    assert not (half_b.weight.double() @ half_a.weight.double()).any()
    with torch.no_grad():
        leaf(layer.lora_A).mul_(1.01).add_(0.01)
        leaf(layer.lora_B).mul_(0.99).add_(0.02)
    a, b = leaf(layer.lora_A).double(), leaf(layer.lora_B).double()
    found, wanted = half_b.weight.double() @ half_a.weight.double(), b @ a - b0 @ a0
    assert (found - wanted).norm() / wanted.norm() < (1e-6 if dtype == torch.float32 else 0.01)


def test_orthogonal_and_gaussian_are_pefts_own(tiny_base: Path) -> None:
    for start in ("orthogonal", "gaussian"):
        theirs = layers(pefts(tiny_base, start))
        for name, layer in layers(ours(tiny_base, start)).items():
            assert torch.equal(layer.lora_A["default"].weight, theirs[name].lora_A["default"].weight)
            assert torch.equal(layer.lora_B["default"].weight, theirs[name].lora_B["default"].weight)


def test_xavier_is_uniform_to_its_bound(tiny_base: Path) -> None:
    for layer in layers(ours(tiny_base, "xavier")).values():
        a = layer.lora_A["default"].weight
        bound = math.sqrt(6 / sum(a.shape))
        assert 0.8 * bound < a.abs().max() <= bound and not layer.lora_B["default"].weight.any()


def test_eva_is_pefts_own(tiny_base: Path) -> None:
    wanted = adapting.params("lora")
    config = LoraConfig(
        r=RANK, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0),
    )  # fmt: skip
    theirs: Any = get_peft_model(adapting.base(tiny_base, wanted), config)
    usable = [sample.Fed(pack) for pack in sample.take(adapting.PACKS, LoraOptions().sample)]
    own: Any = {"prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None, "show_progress_bar": False}
    initialize_lora_eva_weights(
        theirs, usable, forward_fn=lambda model, fed: packing.loss_sum(model.get_base_model(), fed.pack), **own
    )
    found = layers(theirs.get_base_model())
    for name, layer in layers(ours(tiny_base, "eva")).items():
        torch.testing.assert_close(layer.lora_A["default"].weight, found[name].lora_A["default"].weight)
        assert not layer.lora_B["default"].weight.any()


def test_loftq_takes_back_what_quantisation_lost(tiny_base: Path) -> None:
    """The best rank-r correction of W - Q (arXiv 2310.08659, equation 6): what is left are the other singular values."""
    wanted = adapting.params("qlora", "bfloat16", init="loftq")
    tuned: Any = adapting.attach(tiny_base, wanted).runner.model
    plain = layers(adapting.attach(tiny_base, adapting.params("lora")).runner.model)
    for name, layer in layers(tuned).items():
        original, held = plain[name].base_layer.weight, importance.matrix(layer.get_base_layer())
        a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
        lost = original - held
        left = (lost - layer.scaling["default"] * b @ a).norm()
        best = torch.linalg.svdvals(lost)[RANK:].norm()
        assert best * 0.999 < left < 1.01 * best < lost.norm()


def test_eva_that_has_too_few_tokens_is_refused(tiny_base: Path) -> None:
    from tasks.core.errors import ParamsError

    model = loading.load(tiny_base, torch.float32)
    with pytest.raises(ParamsError, match="no pack of the sample has as many tokens"):
        sample.components(model, ["model.layers.0.mlp.up_proj"], sample.take(adapting.PACKS, 4), 30)


def test_a_sample_is_spread_over_the_training_set() -> None:
    packs = sample.take(adapting.PACKS, 4)
    assert [pack.lengths[0] for pack in packs] == [len(adapting.ROWS[place].ids) for place in (0, 5, 10, 15)]
    assert len(sample.take(adapting.PACKS, 1000)) == len(adapting.PACKS)
