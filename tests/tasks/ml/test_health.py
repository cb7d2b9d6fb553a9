"""Health: effective ranks are the dense product's, norms add up to the step's, what is dead or explodes is named once."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import events
from tasks.core.sections import Optimizer, TrainParams, Validation
from tasks.ml import health, spectrum
from tasks.ml.history import Result
from tasks.ml.tuned import Moment, Tuned
from tests import runs
from tests.hearing import Heard

OFTEN = Validation(times=5)
PARAMS = runs.PARAMS.model_copy(update={"validation": OFTEN, "optimizer": Optimizer(learning_rate=1e-2)})


@pytest.fixture
def heard() -> Iterator[Heard]:
    sink = Heard()
    with events.also(sink):
        yield sink


@st.composite
def factors(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """B (outputs, r) and A (r, inputs) of any rank up to r, their columns of very different size."""
    outputs, inputs, rank = draw(st.integers(1, 20)), draw(st.integers(1, 20)), draw(st.integers(1, 8))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    b, a = torch.randn(outputs, rank, generator=noise), torch.randn(rank, inputs, generator=noise)
    sizes = torch.tensor(draw(st.lists(st.sampled_from([0.0, 1e-3, 1.0, 30.0]), min_size=rank, max_size=rank)))
    return b * sizes * draw(st.sampled_from([1e-6, 1.0, 1e6])), a


@given(factors())
def test_the_effective_rank_is_that_of_the_dense_product(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    b, a = pair
    dense = torch.linalg.svdvals(b.double() @ a.double())
    found = spectrum.of_product(b, a)
    torch.testing.assert_close(found.double(), dense[: len(found)], rtol=0, atol=1e-5 * dense.max().item())
    rank = spectrum.effective_rank(found)
    if not b.any():
        assert rank is None
        return
    shares = (dense / dense.sum())[dense > 0]
    assert rank == pytest.approx(math.exp(-(shares * shares.log()).sum().item()), rel=1e-3)
    assert 1 - 1e-9 <= rank <= min(*b.shape, *a.shape) + 1e-6


@given(st.integers(1, 10), st.integers(0, 10), st.sampled_from([1e-30, 1.0, 1e30]))
def test_equal_values_all_count_and_zeros_do_not(equal: int, zeros: int, size: float) -> None:
    values = torch.tensor([size] * equal + [0.0] * zeros)
    assert spectrum.effective_rank(values) == pytest.approx(equal)


def fit(base: Path, folder: Path, wanted: TrainParams, **options: Any) -> Result:
    return runs.fit(base, folder, wanted, **options)[1]


@pytest.mark.parametrize("clip", [1e-3, 1e3])
@pytest.mark.parametrize(
    ("method", "kinds"),
    [("lora", "ab"), ("dora", "abm"), ("adalora", "abo"), ("delta_lora", "ab"), ("adapter", "o"), ("full", "o")],
)
def test_the_kinds_norms_make_the_steps_norm(
    tiny_base: Path, tmp_path: Path, method: str, kinds: str, clip: float
) -> None:
    optimizer = Optimizer(learning_rate=1e-2, max_grad_norm=clip)
    result = fit(tiny_base, tmp_path, PARAMS.model_copy(update={"method": method, "optimizer": optimizer}))
    assert [each.step for each in result.health] == [check.step for check in result.validations if check.step]
    for each in result.health:
        norms = [each.grad_a, each.grad_b, each.grad_magnitude, each.grad_other]
        assert "".join(kind for kind, norm in zip("abmo", norms, strict=True) if norm is not None) == kinds
        whole = math.sqrt(sum(norm**2 for norm in norms if norm is not None))
        assert whole == pytest.approx(result.history[each.step - 1].grad_norm, rel=1e-3)
        if "b" in kinds:
            assert each.effective_rank is not None and each.effective_rank_min is not None
            assert 1 <= each.effective_rank_min <= each.effective_rank <= 2 * PARAMS.rank
        else:
            assert each.effective_rank is None
    result.write(tmp_path)
    with (tmp_path / "health.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["grad_magnitude"] != "" for row in rows] == ["m" in kinds] * len(result.health)


def test_the_effective_rank_is_that_of_the_trained_halves(tiny_base: Path, tmp_path: Path) -> None:
    tuned, result = runs.fit(tiny_base, tmp_path, PARAMS)
    halves = tuned.trainable()
    found: list[float] = []
    for name, a in halves.items():
        if health.kind(name) == "a":
            values = torch.linalg.svdvals(halves[name.replace("lora_A", "lora_B")].double() @ a.double())[: PARAMS.rank]
            shares = values / values.sum()
            found.append(math.exp(-(shares * shares.log()).sum().item()))
    assert len(found) == 14
    assert result.health[-1].effective_rank == pytest.approx(sum(found) / len(found), rel=1e-4)
    assert result.health[-1].effective_rank_min == pytest.approx(min(found), rel=1e-4)


def deaf(tuned: Tuned) -> Tuned:
    """Nothing comes out of the second layer's MLP, so that nothing before its end learns."""
    model: Any = tuned.runner.model
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    return tuned


GATES = PARAMS.model_copy(update={"targets": ("q_proj", "gate_proj", "up_proj")})


def test_an_adapter_that_never_moves_is_named_once(tiny_base: Path, tmp_path: Path, heard: Heard) -> None:
    fit(tiny_base, tmp_path, GATES, watch=deaf)
    [said, *_] = heard.texts("warning")
    assert said.startswith(
        "model.layers.1.mlp.gate_proj, model.layers.1.mlp.up_proj: B is still zero after step 2: dead"
    )
    assert sum("gate_proj" in warning and "dead" in warning for warning in heard.texts("warning")) == 1


def later_deaf(tuned: Tuned) -> Tuned:
    def after(moment: Moment) -> tuple[str, ...]:
        if moment.step == 3:
            deaf(tuned)
        return ()

    return replace(tuned, after=after)


def test_an_adapter_that_stops_is_named_once(tiny_base: Path, tmp_path: Path, heard: Heard) -> None:
    fit(tiny_base, tmp_path, GATES, watch=later_deaf)
    [said] = heard.texts("warning")
    assert said.startswith(
        "model.layers.1.mlp.gate_proj, model.layers.1.mlp.up_proj: no gradient at the last 2 measurements, up to step 6"
    )


def test_an_adapter_that_explodes_is_named_once(tiny_base: Path, tmp_path: Path, heard: Heard) -> None:
    options = {"alpha_pattern": {"model.layers.1.mlp.up_proj": 1e5}}
    slow = Optimizer(learning_rate=1e-7)
    fit(tiny_base, tmp_path, PARAMS.model_copy(update={"options": options, "optimizer": slow}))
    [said] = [warning for warning in heard.texts("warning") if "up_proj" in warning]
    assert said.startswith(
        "model.layers.1.mlp.up_proj: the gradient of step 2 is more than 100 times the median of its peers"
    )


@given(
    st.lists(st.floats(0.1, 5), min_size=3, max_size=9), st.sampled_from(["lora_B.default.weight", "adapter.up.bias"])
)
def test_what_explodes_stands_out_among_its_peers_only(norms: list[float], part: str) -> None:
    """Another part of the same layers may be as small as it likes."""
    peers = {f"model.layers.{number}.mlp.{part}": norm for number, norm in enumerate(norms)}
    others = {f"model.layers.{number}.mlp.adapter.down.bias": 1e-9 for number in range(9)}
    assert health.exploding({**peers, **others}) == []
    far = f"model.layers.9.mlp.{part}"
    assert health.exploding({**peers, **others, far: 5000.0}) == [far]


@pytest.mark.parametrize("method", ["lora", "dora", "adalora", "lisa", "adapter", "vera"])
def test_a_healthy_run_warns_of_nothing(tiny_base: Path, tmp_path: Path, heard: Heard, method: str) -> None:
    result = fit(tiny_base, tmp_path, PARAMS.model_copy(update={"method": method}))
    assert len(result.health) == 5
    assert heard.texts("warning") == []


def test_a_killed_run_sees_and_tells_the_same(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    undisturbed = fit(tiny_base, tmp_path / "whole", GATES, watch=deaf)
    told = heard.texts("warning")
    heard.told.clear()
    monkeypatch.setattr(runs, "attach", lambda *given, attach=runs.attach: deaf(attach(*given)))
    _, resumed = runs.fit_killed(tiny_base, tmp_path / "killed", GATES, monkeypatch)
    assert resumed.health == undisturbed.health and len(resumed.health) == 5
    assert heard.texts("warning") == told
