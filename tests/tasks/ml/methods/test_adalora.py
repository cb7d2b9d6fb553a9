"""AdaLoRA: PEFT's allocator and penalty, ranks that really fall to the budget, exact resume, reload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from peft import AdaLoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from tasks.core.errors import ParamsError
from tasks.ml.lora.budget import Schedule
from tasks.ml.lora.sections import AdaloraOptions
from tasks.ml.lora.triplets import Triplets, chosen
from tasks.ml.tuned import Moment
from tests import adapting
from tests.tiny import Family

SCHEDULE = Schedule(steps=20, warmup=3, fallen=15, interval=2, rank=4, target=2)
FALLS: dict[str, Any] = {"target_rank": 2, "warmup": 0.2, "final": 0.3}


def pefts(folder: Path) -> Any:
    config = AdaLoraConfig(
        init_r=4, target_r=2, tinit=3, tfinal=5, deltaT=2, total_step=20, beta1=0.85, beta2=0.8, orth_reg_weight=0.5,
        lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(1)
    model: Any = get_peft_model(adapting.base(folder, adapting.params("adalora")), config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_E" in name:
                value.normal_(std=0.3)
    return model


def named(bare: Any) -> dict[str, Tensor]:
    return {name: value for name, value in bare.named_parameters() if value.requires_grad}


def test_every_step_allocates_as_pefts_allocator(tiny_base: Path) -> None:
    """The whole schedule with the same gradients and the same moves: the same values stay after each step."""
    theirs, ours = pefts(tiny_base), pefts(tiny_base).get_base_model()
    triplets, source = Triplets(ours, SCHEDULE, 0.85, 0.8), torch.Generator().manual_seed(5)
    left: list[int] = []
    for step in range(1, 21):
        gradients: dict[str, Tensor] = {}
        for name, value in named(theirs.get_base_model()).items():
            gradients[name] = value.grad = torch.randn(value.shape, generator=source)
            move = 0.1 * torch.randn(value.shape, generator=source)
            value.data.add_(move)
            named(ours)[name].data.add_(move)
        theirs.base_model.update_and_allocate(step)
        changed = triplets.after(Moment(step, 20, gradients))
        assert bool(changed) == (step in (4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20))
        for name, value in named(theirs.get_base_model()).items():
            torch.testing.assert_close(named(ours)[name], value, rtol=0, atol=0, msg=f"step {step}: {name}")
        left.append(sum(sum(kept) for kept in triplets.pattern().values()))
    pattern = theirs.peft_config["default"].rank_pattern
    assert triplets.pattern() == {name.removesuffix(".default"): kept for name, kept in pattern.items()}
    assert left[2] == 4 * 14 and left[-1] == 2 * 14 and left[3] > left[5] > left[7] > left[-1]


def test_the_penalty_is_pefts(tiny_base: Path) -> None:
    """What PEFT's forward adds to a loss; and its gradients."""
    theirs, ours = pefts(tiny_base), pefts(tiny_base).get_base_model()
    triplets = Triplets(ours, SCHEDULE, 0.85, 0.85)
    ids = adapting.PROBE.ids
    kept: dict[str, Any] = {"input_ids": ids, "labels": ids, "lengths": (ids.shape[1],)}
    with_penalty, without = theirs(**kept).loss, theirs.get_base_model()(**kept).loss
    found = triplets.penalty()
    torch.testing.assert_close(0.5 * found, with_penalty - without, rtol=1e-5, atol=1e-5)
    (with_penalty - without).backward()
    (0.5 * found).backward()
    for name, value in named(theirs.get_base_model()).items():
        if "lora_E" not in name:
            torch.testing.assert_close(named(ours)[name].grad, value.grad, rtol=1e-4, atol=1e-6)


def test_a_layer_is_the_papers_equation(tiny_base: Path) -> None:
    """W x + alpha/r P E Q x in float64 (arXiv 2303.10512, equation 3); PEFT divides by the rank at the start, not by today's."""
    layer = pefts(tiny_base).get_base_model().model.layers[0].mlp.up_proj.double()
    q, e, p = (layer.get_parameter(f"{half}.default").detach() for half in ("lora_A", "lora_E", "lora_B"))
    x = torch.randn(3, q.shape[1], dtype=torch.float64)
    wanted = x @ layer.base_layer.weight.T + 8 / (4 + 1e-5) * (x @ q.T * e.T) @ p.T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ranks_fall_to_the_budget_and_what_is_saved_reloads(tiny_base: Path, tmp_path: Path, dtype: str) -> None:
    """peft#1801, #432: ranks never changed, as nobody called the allocator."""
    wanted = adapting.params("adalora", dtype, **FALLS)
    tuned, _ = adapting.fit(tiny_base, tmp_path / "work", wanted)
    assert len(tuned.trainable()) == 3 * 14  # not the scale's divisor
    saved = adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned, exact=False)
    pattern: dict[str, list[bool]] = json.loads((saved / "adapter_config.json").read_bytes())["rank_pattern"]
    kept = [sum(each) for each in pattern.values()]
    assert len(kept) == 14 and sum(kept) == 2 * 14 and len(set(kept)) > 1
    tensors = load_file(saved / "adapter_model.safetensors")
    assert sorted(value.shape[0] for name, value in tensors.items() if "lora_A" in name) == sorted(kept)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_that_lost_all_its_ranks_reloads(tiny_base: Path, tmp_path: Path, dtype: str) -> None:
    """peft#1539: loading failed at rank 0."""
    wanted = adapting.params("adalora", dtype, **FALLS)
    tuned, _ = adapting.fit(tiny_base, tmp_path / "work", wanted)
    with torch.no_grad():
        tuned.runner.model.get_parameter("model.layers.0.mlp.up_proj.lora_E.default").zero_()
    saved = adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned, exact=False)
    a = load_file(saved / "adapter_model.safetensors")["base_model.model.model.layers.0.mlp.up_proj.lora_A"]
    assert a.shape == (0, 32)


@pytest.mark.parametrize("family", ["qwen", "gpt2"])
def test_other_families(tiny_bases: dict[Family, Path], tmp_path: Path, family: Family) -> None:
    wanted = adapting.params("adalora", **FALLS)
    tuned, _ = adapting.fit(tiny_bases[family], tmp_path / "work", wanted)
    adapting.assert_reloads(tiny_bases[family], tmp_path, wanted, tuned, exact=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_run_ends_alike(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    wanted = adapting.params("adalora", dtype, **FALLS)
    tuned = adapting.assert_a_killed_run_ends_alike(tiny_base, tmp_path, wanted, monkeypatch)
    assert tuned.state()["sensitivity"].any() and not tuned.state()["kept"].all()


def test_masking_leaves_the_masters_of_what_stays(tiny_base: Path, tmp_path: Path) -> None:
    """E is held in bfloat16: were the masters to follow its rounded values, small updates would be lost."""
    wanted = adapting.params("adalora", "bfloat16", **FALLS).model_copy(
        update={"epochs": 8, "optimizer": adapting.Optimizer(learning_rate=1e-4, schedule="constant", warmup=0.0)}
    )
    fine = adapting.params("adalora", "float32", **FALLS).model_copy(
        update={"epochs": 8, "optimizer": wanted.optimizer}
    )
    moved: list[Tensor] = []
    for each in (wanted, fine):
        tuned = adapting.attach(tiny_base, each, steps=40)
        with torch.no_grad():
            for name, value in tuned.trainable().items():
                if "lora_E" in name:
                    value.fill_(0.5)  # where a step of 1e-4 is far below bfloat16's resolution of 2e-3
        adapting.training.fit(tuned, adapting.PACKS, [], each, adapting.Checkpoints(tmp_path / each.launch.dtype, 1e9))
        values = torch.cat([value.flatten() for name, value in tuned.trainable().items() if "lora_E" in name]).float()
        moved.append(values[values != 0] - 0.5)
    assert moved[0].abs().max() > 2e-3
    assert moved[0].abs().mean() > 0.5 * moved[1].abs().mean()


@given(
    st.integers(1, 500),
    st.integers(1, 64),
    st.floats(0, 0.6),
    st.floats(0, 0.3),
    st.floats(0, 0.5),
    st.integers(1, 300),
)
def test_the_budget_never_rises_and_ends_at_its_target(
    steps: int, rank: int, warmup: float, final: float, interval: float, matrices: int
) -> None:
    options = AdaloraOptions(warmup=warmup, final=final, interval=interval)
    schedule = Schedule.of(options, steps, rank)
    budgets = [schedule.budget(step, matrices) for step in range(1, steps + 1)]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] == schedule.target * matrices <= budgets[0] <= rank * matrices
    assert schedule.shares_out(schedule.fallen)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40, unique=True), st.integers(0, 40))
def test_the_highest_scores_stay(scores: list[float], budget: int) -> None:
    assume(budget <= len(scores))
    kept = chosen(torch.tensor(scores, dtype=torch.float64), budget)
    assert int(kept.sum()) == budget
    assert sorted(torch.tensor(scores, dtype=torch.float64)[kept].tolist()) == sorted(scores)[len(scores) - budget :]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_rank": 5}, "target_rank=5 is above train.rank=4"),
        ({"warmup": 0.6, "final": 0.4}, "warmup and final together leave less than a tenth"),
        ({"tinit": 3}, "train.options.tinit: unknown key; known here: beta1, beta2, dropout, final, interval"),
    ],
)
def test_a_schedule_that_can_t_be_is_refused(tiny_base: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        adapting.attach(tiny_base, adapting.params("adalora", **options))
    assert says in str(caught.value)


def test_without_a_penalty_nothing_is_added(tiny_base: Path) -> None:
    assert adapting.attach(tiny_base, adapting.params("adalora", orthogonality=0.0)).penalty is None
    assert adapting.attach(tiny_base, adapting.params("adalora")).penalty is not None
