"""DoRA: the paper's equation, a magnitude that moves in any type, and stages that are a function of step and losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tasks.core.errors import ParamsError
from tasks.ml import fused, loading, methods
from tasks.ml.lora.magnitude import NAME, flat, rests
from tasks.ml.lora.sections import Magnitude
from tasks.ml.masters import Masters
from tests import adapting
from tests.tiny import Family

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pissa": {"init": "pissa"},
    "ranks by importance": {"allocate": {"by": "sensitivity"}},
    "rslora with dropout": {"rslora": True, "dropout": 0.2, "init": "orthogonal"},
    "rests": {"magnitude": {"after": 0.5}},
    "slow": {"magnitude": {"rate": 0.1}},
}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in OPTIONS), ("plain", "bfloat16"), ("pissa", "bfloat16")]
)
def test_every_option_trains_and_reloads(tiny_base: Path, tmp_path: Path, name: str, dtype: str) -> None:
    """trl#7268, torchtune#2250: the magnitude never moved."""
    wanted = adapting.params("dora", dtype, **OPTIONS[name])
    start = {key: value.clone() for key, value in adapting.attach(tiny_base, wanted).trainable().items()}
    tuned, result = adapting.fit(tiny_base, tmp_path / "work", wanted)
    assert len(start) == 3 * 14 and sum(NAME in key for key in start) == 14
    assert [key for key, value in tuned.trainable().items() if torch.equal(value, start[key])] == []
    assert result.validations[-1].loss < result.validations[0].loss
    saved = adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)
    tensors = load_file(saved / "adapter_model.safetensors")
    magnitudes = [value for key, value in tensors.items() if "magnitude" in key]
    assert len(magnitudes) == 14 and {value.dtype for value in magnitudes} == {torch.float32}


@pytest.mark.parametrize("family", ["qwen", "gpt2"])
def test_other_families(tiny_bases: dict[Family, Path], tmp_path: Path, family: Family) -> None:
    wanted = adapting.params("dora", init="pissa")
    tuned, _ = adapting.fit(tiny_bases[family], tmp_path / "work", wanted)
    adapting.assert_reloads(tiny_bases[family], tmp_path, wanted, tuned)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("options", [{}, {"init": "pissa"}])
def test_a_layer_is_the_papers_equation(tiny_base: Path, options: dict[str, Any], fuse: bool) -> None:
    """m (W + s B A) / |W + s B A| by rows, the norm a constant (arXiv 2402.09353, equations 5 and 11): values and
    gradients against float64, twice, as the norm changes with A and B."""
    model: Any = adapting.attach(tiny_base, adapting.params("dora", **options)).runner.model
    if fuse:
        fused.fuse(model)
    layer = model.model.layers[0].mlp.up_proj
    m = layer.lora_magnitude_vector["default"].weight
    leaves = [value for name, value in layer.named_parameters() if "lora_A" in name or "lora_B" in name]
    torch.manual_seed(1)
    for _ in range(2):
        with torch.no_grad():
            for value in (*leaves, m):
                value.add_(0.1 * torch.randn_like(value)).grad = None
        x, pull = torch.randn(1, 5, 32), torch.randn(1, 5, 64)
        found = layer(x)
        (found * pull).sum().backward()
        wanted, gradient = reference(layer, m, x, pull)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(m.grad.double(), gradient, rtol=1e-4, atol=1e-5)


def reference(layer: Any, m: Tensor, x: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (half["default"].weight.detach().double() for half in (layer.lora_A, layer.lora_B))
    merged = layer.base_layer.weight.double() + layer.scaling["default"] * b @ a
    unit = merged / merged.norm(dim=1, keepdim=True)
    return x.double() @ (m.detach().double()[:, None] * unit).T, (pull.double() * (x.double() @ unit.T)).sum((0, 1))


def test_one_step_moves_a_magnitude_as_adamw_says(tiny_base: Path) -> None:
    """From the float64 gradient: by the rate, against its sign; at a tenth of the rate where the options say so."""
    for rate in (1.0, 0.1):
        wanted = adapting.params("dora", magnitude={"rate": rate})
        tuned = adapting.attach(tiny_base, wanted)
        masters = Masters(tuned, wanted.optimizer)
        masters.choose(None)
        tuned.runner.loss_sum(adapting.PROBE, 0.0).backward()
        before = {name: value.detach().clone() for name, value in tuned.trainable().items()}
        signs = {name: value.grad.sign() for name, value in tuned.trainable().items() if value.grad is not None}
        masters.update(1.0, 1e-3)
        for name, value in tuned.trainable().items():
            if NAME in name:
                torch.testing.assert_close(value - before[name], -1e-3 * rate * signs[name], rtol=1e-2, atol=1e-6)


def test_the_magnitude_starts_at_the_exact_norm(tiny_base: Path) -> None:
    """In float32, whatever the base: PEFT's own is rounded to bfloat16 there."""
    model: Any = adapting.attach(tiny_base, adapting.params("dora", "bfloat16")).runner.model
    for layer in (module for module in model.modules() if hasattr(module, "lora_magnitude_vector")):
        norm = layer.base_layer.weight.double().norm(dim=1)
        torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight.double(), norm, rtol=1e-6, atol=0)


def test_a_magnitude_in_bfloat16_moves_by_less_than_its_resolution(tiny_base: Path, tmp_path: Path) -> None:
    wanted = adapting.params("dora", "bfloat16").model_copy(
        update={"optimizer": adapting.Optimizer(learning_rate=1e-5, schedule="constant", warmup=0.0)}
    )
    start = {name: value.clone() for name, value in adapting.attach(tiny_base, wanted).trainable().items()}
    tuned, _ = adapting.fit(tiny_base, tmp_path, wanted)
    for name, value in tuned.trainable().items():
        if NAME in name:
            moved = (value - start[name]).abs()
            assert 0 < moved.max() < 2e-4 and (moved > 0).float().mean() > 0.9


def test_the_magnitude_rests_and_then_joins(tiny_base: Path, tmp_path: Path) -> None:
    wanted = adapting.params("dora", magnitude={"after": 0.5})
    tuned, learned = adapting.attach(tiny_base, wanted), dict[int, list[bool]]()
    start = {name: value.clone() for name, value in tuned.trainable().items()}

    def after(moment: Any) -> list[str]:
        values = dict(tuned.runner.model.named_parameters())
        learned[moment.step] = [not torch.equal(values[name], start[name]) for name in sorted(start) if NAME in name]
        return []

    watched = dataclasses.replace(tuned, after=after)
    adapting.training.fit(watched, adapting.PACKS, [], wanted, adapting.Checkpoints(tmp_path, 1e9))
    assert [any(learned[step]) for step in range(1, 11)] == [False] * 5 + [True] * 5
    assert all(learned[10])


def test_a_killed_run_ends_alike(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = adapting.params("dora", "bfloat16", magnitude={"after": 0.9, "window": 2, "tolerance": 0.5})
    adapting.assert_a_killed_run_ends_alike(tiny_base, tmp_path, wanted, monkeypatch)


@given(st.lists(st.floats(0.1, 10), max_size=60), st.integers(1, 60), st.floats(0.01, 0.99), st.integers(0, 8))
def test_once_it_trains_it_trains_to_the_end(losses: list[float], steps: int, after: float, window: int) -> None:
    options = Magnitude(after=after, window=window)
    resting = [rests(step, losses[: step - 1], steps, options) for step in range(1, len(losses) + 2)]
    assert resting == sorted(resting, reverse=True)
    assert not any(resting[int(after * steps) :])


def test_flat_is_found_where_the_mean_stops_falling() -> None:
    falling = [10.0 * 0.9**step for step in range(20)]
    assert not flat(falling, 4, 0.01)
    assert flat([*falling, *[falling[-1]] * 8], 4, 0.01)
    assert not flat([*falling, *[falling[-1]] * 2], 4, 0.01)
    assert not flat([], 4, 0.01) and not flat([1.0] * 7, 4, 0.01) and flat([1.0] * 8, 4, 0.01)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("dora", {"magnitude": {"window": 5}}, "train.options.magnitude: window ends the rest early"),
        (
            "dora",
            {"magnitude": {"aftr": 0.3}},
            "train.options.magnitude.aftr: unknown key; did you mean 'after'? known here: after, rate",
        ),
        ("lora", {"magnitude": {"after": 0.3}}, "train.options.magnitude: unknown key"),
    ],
)
def test_wrong_options_are_known_before_anything_runs(method: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        methods.find(adapting.params(method, **options))
    assert says in str(caught.value)


def test_fused_and_reloaded_agree_in_bfloat16(tiny_base: Path, tmp_path: Path) -> None:
    """What trains is fused with exact norms; what evaluates is PEFT's layer, whose norms are rounded."""
    wanted = adapting.params("dora", "bfloat16")
    tuned = adapting.attach(tiny_base, wanted)
    fused.fuse(tuned.runner.model)
    adapting.training.fit(tuned, adapting.PACKS, [], wanted, adapting.Checkpoints(tmp_path / "work", 1e9))
    (tmp_path / "adapter").mkdir()
    tuned.save(tmp_path / "adapter")
    again = loading.with_adapter(adapting.base(tiny_base, wanted), tmp_path / "adapter").model
    torch.testing.assert_close(adapting.probe(again), adapting.probe(tuned.runner.model), rtol=0.05, atol=0.05)
