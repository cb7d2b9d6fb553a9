"""Importance of layers: the same numbers as from full gradients, and nothing left behind on the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.ml import loading, packing, targets
from tasks.ml.lora import importance, sample
from tests import adapting
from tests.tiny import Family

PACKS = sample.take(adapting.PACKS, 5)


def full_gradients(model: Any, names: list[str]) -> list[dict[str, Tensor]]:
    """Of each pack's mean loss, in float64, by autograd on the weights themselves."""
    model = model.double()
    weights = {name: model.get_submodule(name).weight for name in names}
    found: list[dict[str, Tensor]] = []
    for pack in PACKS:
        for weight in weights.values():
            weight.requires_grad_(True).grad = None
        (packing.loss_sum(model, pack) / len(pack.targets)).backward()
        found.append({name: weight.grad for name, weight in weights.items()})
    return found


@pytest.mark.parametrize("by", ["sensitivity", "gradient"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_are_those_of_full_gradients(tiny_bases: dict[Family, Path], family: Family, by: str) -> None:
    wanted = adapting.params("lora")
    model, theirs = adapting.base(tiny_bases[family], wanted), adapting.base(tiny_bases[family], wanted)
    layers = targets.linear(model)
    found = importance.measure(model, layers, PACKS, by, 8)
    gradients = full_gradients(theirs, list(layers))
    for name in layers:
        weight = theirs.get_submodule(name).weight
        scores = [
            (each[name] * weight).abs().mean() if by == "sensitivity" else each[name].square().mean().sqrt()
            for each in gradients
        ]
        assert found[name] == pytest.approx(torch.stack(scores).mean().item(), rel=1e-4)
    assert not any(value.requires_grad or value.grad is not None for value in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("held", ["nf4", "int8"])
def test_a_quantised_base_is_measured_too(tiny_base: Path, held: str) -> None:
    scores: list[dict[str, float]] = []
    for kind in ("plain", held):
        model = adapting.base(tiny_base, adapting.params("lora")) if kind == "plain" else _held(tiny_base, held)
        scores.append(importance.measure(model, targets.linear(model), PACKS, "sensitivity", 8))
    plain, quantised = (torch.tensor([each[name] for name in scores[0]]) for each in scores)
    assert torch.nn.functional.cosine_similarity(plain, quantised, dim=0) > 0.98


def _held(folder: Path, held: str) -> Any:
    model = loading.load(folder, torch.bfloat16, held=held, attention="sdpa")
    model.requires_grad_(False)
    return model


def test_variance_is_the_rank_that_eva_gives(tiny_base: Path) -> None:
    model = adapting.base(tiny_base, adapting.params("lora"))
    found = importance.measure(model, targets.linear(model), PACKS, "variance", 8)
    assert len(found) == 14 and sum(found.values()) == 4 * 14 and max(found.values()) <= 8
    assert len(set(found.values())) > 1
