"""Every optimizer: its own equation in float64, a loss that falls, and the same bytes after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tasks.core.sections import Batch, Launch, Optimizer, TrainParams
from tasks.data.chatset import Segment
from tasks.ml import attention, loading, methods, optimizers, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.tuned import Ahead, Runner, Tuned
from tests import runs

NAMES: tuple[str, ...] = get_args(Optimizer.model_fields["name"].annotation)
RATES = {"lion": 3e-3}
ROWS = [
    Segment(str(number), [(number * 31 + place * 7) % 300 + 3 for place in range(length)], [True] * length)
    for number, length in enumerate([9, 14, 20, 11, 8, 17, 12, 10])
]


def test_there_are_five() -> None:
    assert NAMES == ("adamw", "paged_adamw_8bit", "adafactor", "lion", "muon")


def params(name: str, dtype: Any = "float32", **more: Any) -> TrainParams:
    chosen: Any = {"name": name, "learning_rate": RATES.get(name, 1e-2), "weight_decay": 0.01, **more}
    return TrainParams(
        rank=4,
        epochs=3,
        launch=Launch(dtype=dtype),
        batch=Batch(packs=2, micro_tokens=32),
        optimizer=Optimizer(**chosen),
    )


# One step after another, as the papers write them, in float64.

Update = Callable[[Tensor, Sequence[Tensor], float, float], Tensor]
"""A tensor, the gradients of steps 1 to t, the rate and the decay -> the tensor after step t."""


def adamw(start: Tensor, gradients: Sequence[Tensor], rate: float, decay: float) -> Tensor:
    value, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
    for step, gradient in enumerate(gradients, 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        update = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        value = value - rate * decay * value - rate * update
    return value


def adafactor(start: Tensor, gradients: Sequence[Tensor], rate: float, decay: float) -> Tensor:
    """Algorithm 4 without relative steps: factored second moments, decay 1 - t^-0.8, updates clipped to a mean of 1."""
    value, rows, columns = start, torch.zeros(len(start), 1).double(), torch.zeros(1, start.shape[1]).double()
    for step, gradient in enumerate(gradients, 1):
        share = 1 - step**-0.8
        rows = share * rows + (1 - share) * (gradient**2).mean(1, keepdim=True)
        columns = share * columns + (1 - share) * (gradient**2).mean(0, keepdim=True)
        update = gradient / (rows @ columns / rows.mean()).sqrt()
        update = update / max(1.0, (update**2).mean().sqrt().item())
        value = value - rate * decay * value - rate * update
    return value


def lion(start: Tensor, gradients: Sequence[Tensor], rate: float, decay: float) -> Tensor:
    """Algorithm 2 of arXiv 2302.06675."""
    value, momentum = start, torch.zeros_like(start)
    for gradient in gradients:
        value = value - rate * ((0.9 * momentum + 0.1 * gradient).sign() + decay * value)
        momentum = 0.99 * momentum + 0.01 * gradient
    return value


def muon(start: Tensor, gradients: Sequence[Tensor], rate: float, decay: float) -> Tensor:
    """Nesterov momentum, five Newton-Schulz steps towards the nearest orthogonal matrix, scaled as in arXiv 2502.16982."""
    value, momentum = start, torch.zeros_like(start)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.05 * gradient + 0.95 * momentum
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        value = value - rate * decay * value - rate * 0.2 * math.sqrt(max(x.shape)) * x
    return value


ORACLES: dict[str, tuple[Update, float]] = {
    "adamw": (adamw, 1e-6), "paged_adamw_8bit": (adamw, 2e-2), "adafactor": (adafactor, 1e-5), "lion": (lion, 1e-6),
    "muon": (muon, 2e-2),
}  # fmt: skip
"""The second number: how far the sum of the steps may be from the oracle's, relative to its norm. Muon multiplies in
bfloat16 (8 bits of precision), and the moments of 8 bits are rounded between the steps."""


def stepped(name: str, start: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    value = start.float()
    (optimizer,) = optimizers.make(params(name).optimizer, {1.0: {"weight": value}})
    for gradient in gradients:
        value.grad = gradient.float()
        optimizer.step()
    return value.double()


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_are_the_papers(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    start, *gradients = (torch.randn(64, 128, generator=generator).double() * scale for scale in (0.05, 1, 2, 0.5))
    oracle, tolerance = ORACLES[name]
    chosen = params(name).optimizer
    wanted = oracle(start, gradients, chosen.learning_rate, chosen.weight_decay) - start
    found = stepped(name, start, gradients) - start
    assert (found - wanted).norm() < tolerance * wanted.norm()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_zero_moves_nothing(name: str) -> None:
    """LoRA's A has such a gradient in the first step."""
    value = torch.zeros(64, 128).double()
    assert torch.equal(stepped(name, value, [torch.zeros_like(value)]), value)


def test_muon_takes_matrices_and_leaves_tables_and_vectors() -> None:
    named = {"a.weight": torch.ones(4, 8), "norm": torch.ones(8), "embed": torch.ones(16, 8), "bias": torch.ones(3)}
    first, second = optimizers.make(params("muon").optimizer, {1.0: named}, {"embed"})
    assert isinstance(first, torch.optim.Muon) and isinstance(second, torch.optim.AdamW)
    assert [p.shape for group in first.param_groups for p in group["params"]] == [(4, 8)]
    assert [p.shape for group in second.param_groups for p in group["params"]] == [(8,), (16, 8), (3,)]
    (alone,) = optimizers.make(params("muon").optimizer, {1.0: {"norm": named["norm"]}})
    assert isinstance(alone, torch.optim.AdamW)


@pytest.mark.parametrize("name", NAMES)
def test_each_group_has_its_rate(name: str) -> None:
    slow, fast = torch.zeros(4, 8), torch.zeros(4, 8)
    (optimizer,) = optimizers.make(params(name).optimizer, {1.0: {"slow": slow}, 16.0: {"fast": fast}})
    for group in optimizer.param_groups:
        group["lr"] = 1e-4 * group["times"]
    slow.grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    fast.grad = slow.grad.clone()
    optimizer.step()
    torch.testing.assert_close(fast, 16 * slow)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_memory_goes_on_as_the_first(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    value, *gradients = (torch.randn(64, 128, generator=generator) for _ in range(5))
    (first,) = optimizers.make(params(name).optimizer, {1.0: {"layer.weight": value}})
    for gradient in gradients[:2]:
        value.grad = gradient
        first.step()
    other = value.clone()
    (second,) = optimizers.make(params(name).optimizer, {1.0: {"layer.weight": other}})
    saved = {key: tensor.clone() for key, tensor in optimizers.tensors([first], {value: "layer.weight"}).items()}
    optimizers.restore([second], {other: "layer.weight"}, saved)
    again = optimizers.tensors([second], {other: "layer.weight"})
    assert again.keys() == saved.keys() and all(torch.equal(again[key], saved[key]) for key in saved)
    for gradient in gradients[2:]:
        for tensor, optimizer in ((value, first), (other, second)):
            tensor.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(value, other)


# Whole trainings: a LoRA, and a model of which everything trains, half of it in each step.


def lora(model: Any, chosen: TrainParams) -> Tuned:
    method, options = methods.find(chosen)
    return method.attach(model, chosen, options, Ahead(12, ()))


def halves(model: Any, _chosen: TrainParams) -> Tuned:
    """Layers 0 and 1 in turns, three steps each; embeddings (above 4,096 values) and the last norm always."""
    model.requires_grad_(True)
    names = [name for name, _ in model.named_parameters()]
    turns = [frozenset(name for name in names if f"layers.{resting}." not in name) for resting in (1, 0)]
    return Tuned(Runner.of(model), lambda _folder: None, trains=lambda step, _losses: turns[(step - 1) // 3 % 2])


def fit(
    base: Path, folder: Path, chosen: TrainParams, make: Callable[[Any, TrainParams], Tuned], seconds: float = 1e9
) -> Any:
    torch.manual_seed(chosen.launch.seed)
    model = loading.load(base, loading.compute_dtype(chosen.launch.dtype), attention=attention.NAME)
    model.requires_grad_(False)
    tuned = make(model, chosen)
    result = training.fit(tuned, [[row] for row in ROWS], ROWS[:3], chosen, Checkpoints(folder, seconds))
    return {name: value.detach() for name, value in tuned.runner.model.named_parameters()}, result


@pytest.mark.parametrize("make", [lora, halves])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_with_the_same_bytes(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, make: Any
) -> None:
    chosen = params(name, dtype)
    wanted, undisturbed = fit(tiny_base, tmp_path / "whole", chosen, make)
    assert undisturbed.validations[-1].loss < undisturbed.validations[0].loss - 0.05
    calls = runs.kill(monkeypatch, 5, 10)
    for _ in range(2):
        with pytest.raises(runs.Killed):
            fit(tiny_base, tmp_path / "killed", chosen, make, seconds=0)
    found, resumed = fit(tiny_base, tmp_path / "killed", chosen, make, seconds=0)
    assert len(calls) == len(undisturbed.history) + 2
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    assert [record.loss for record in resumed.history] == [record.loss for record in undisturbed.history]


def test_what_rests_forgets_its_moments_and_what_goes_on_keeps_them() -> None:
    a, b = torch.ones(4, 8), torch.ones(4, 8)
    before = optimizers.make(params("muon").optimizer, {1.0: {"a": a, "b": b}})
    for value in (a, b):
        value.grad = torch.ones(4, 8)
    for optimizer in before:
        optimizer.step()
    after = optimizers.make(params("muon").optimizer, {1.0: {"a": a}})
    optimizers.keep(before, after)
    assert list(optimizers.tensors(after, {a: "a"})) == ["momentum_buffer.a"]
