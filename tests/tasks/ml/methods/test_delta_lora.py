"""Delta-LoRA against a literal float64 implementation of the paper's Algorithm 1, and as the plain LoRA that it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import Launch, Optimizer, Validation
from tasks.ml import targets
from tasks.ml.layers.delta import Delta
from tasks.ml.tuned import Moment
from tests import runs
from tests.tiny import Family

FAMILIES: tuple[Family, ...] = ("llama", "qwen", "gpt2")
RATIO, RANK, ALPHA = 0.75, 4, 32.0


class Literal(nn.Module):
    """h = x W + (alpha/r) x A B with W (inputs, outputs), A (inputs, r), B (r, outputs), as the paper writes it."""

    def __init__(self, base: nn.Module, a: Tensor) -> None:
        super().__init__()
        assert isinstance(base, (nn.Linear, Conv1D))
        weight = base.weight.detach().clone()
        self.W = weight if isinstance(base, Conv1D) else weight.T
        self.bias: Any = base.bias
        self.A = nn.Parameter(a.detach().T.clone())
        self.B = nn.Parameter(torch.zeros(RANK, self.W.shape[1], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.W + ALPHA / RANK * (x @ self.A @ self.B)
        return h if self.bias is None else h + self.bias


def wanted(**options: Any) -> Any:
    return runs.params("delta_lora", rank=RANK, alpha=ALPHA, options={"ratio": RATIO, **options})


def attached(base: Path, params: Any, steps: int) -> Any:
    """In float64, eager and without dropout, with the layers of the method by name."""
    tuned = runs.attach(base, params, steps)
    tuned.runner.model.double().eval().set_attn_implementation("eager")
    return tuned, {name: module for name, module in tuned.runner.model.named_modules() if isinstance(module, Delta)}


def backward(model: Any, number: int) -> tuple[Tensor, Tensor]:
    """Loss on one row, and the gradient that reaches its embeddings."""
    ids = torch.tensor([runs.row(number, 20).ids])
    states = model.get_input_embeddings()(ids).detach().requires_grad_()
    loss = F.cross_entropy(model(inputs_embeds=states).logits[0, :-1].double(), ids[0, 1:])
    loss.backward()
    return loss.detach(), states.grad


def literally(base: Path, ours: dict[str, Delta]) -> tuple[Any, dict[str, Literal]]:
    """The same start by the paper's own formulas."""
    model: Any = runs.model(base, torch.float64, "eager").eval().requires_grad_(False)
    layers = {name: Literal(model.get_submodule(name), layer.lora_A) for name, layer in ours.items()}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return model, layers


def move(layers: dict[str, Literal], optimizer: torch.optim.Optimizer, *, w_too: bool) -> None:
    """One step of Algorithm 1."""
    with torch.no_grad():
        before = {name: layer.A @ layer.B for name, layer in layers.items()}
        optimizer.step()
        optimizer.zero_grad()
        for name, layer in layers.items() if w_too else ():
            layer.W += RATIO * ALPHA / RANK * (layer.A @ layer.B - before[name])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("start", "k"), [(0.0, 0), (0.3, 3)])
def test_it_is_the_papers_algorithm(tiny_bases: dict[Family, Path], family: Family, start: float, k: int) -> None:
    """Ten steps of AdamW with weight decay: loss, gradients of A, B and of what the layers read, and W."""
    base, steps = tiny_bases[family], 10
    tuned, ours = attached(base, wanted(start=start), steps)
    model, literal = literally(base, ours)
    halves = [value for layer in literal.values() for value in (layer.A, layer.B)]
    assert len(ours) == len(targets.linear(runs.model(base)))
    mine, theirs = (
        torch.optim.AdamW(values, lr=3e-2, weight_decay=0.1) for values in (tuned.trainable().values(), halves)
    )
    for t in range(steps):
        found, expected = backward(tuned.runner.model, t), backward(model, t)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        gradients = [half.grad for layer in ours.values() for half in (layer.lora_A, layer.lora_B)]
        torch.testing.assert_close(
            gradients, [half.grad.T for half in halves if half.grad is not None], rtol=1e-8, atol=1e-10
        )
        mine.step()
        mine.zero_grad()
        move(literal, theirs, w_too=t > k)
        assert tuned.after(Moment(t + 1, steps, {})) == ()
    original = literally(base, ours)[1]
    for name, layer in literal.items():
        down, up, scale = ours[name].halves()
        moved = layer.W - original[name].W
        assert moved.norm() > 0.01 and len(down) == 2 * RANK
        total = moved + ALPHA / RANK * layer.A @ layer.B
        torch.testing.assert_close((scale * up @ down).T, total, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", [0.2, 0.95])
def test_it_trains_resumes_and_is_a_lora_to_peft(
    tiny_bases: dict[Family, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, start: float
) -> None:
    base = tiny_bases[family]
    tuned = runs.assert_killed_ends_as_undisturbed(base, tmp_path, wanted(start=start), monkeypatch)
    adapter = runs.saved(tuned, tmp_path / "adapter")
    rank = RANK if start > 0.9 else 2 * RANK
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    assert (config["peft_type"], config["r"]) == ("LORA", rank)
    assert config["lora_alpha"] / rank == pytest.approx(ALPHA / RANK * (1 if start > 0.9 else 1 + RATIO))
    assert config["fan_in_fan_out"] == (family == "gpt2") and config["target_modules"] == sorted(
        config["target_modules"]
    )
    plain: Any = PeftModel.from_pretrained(runs.model(base), str(adapter), autocast_adapter_dtype=False).eval()
    found = runs.logits(runs.Runner.of(plain.get_base_model()))
    wanted_logits = runs.logits(tuned.runner)
    torch.testing.assert_close(found, wanted_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(runs.logits(runs.reloaded(base, adapter)), wanted_logits, rtol=1e-4, atol=1e-5)
    untuned = runs.logits(runs.Runner.of(runs.model(base)))
    assert (wanted_logits - untuned).abs().max() > 1e-2
    merged: Any = plain.merge_and_unload()
    torch.testing.assert_close(runs.logits(runs.Runner.of(merged)), wanted_logits, rtol=1e-3, atol=1e-4)


def test_the_best_weights_come_back_with_the_state_they_had(tiny_base: Path, tmp_path: Path) -> None:
    """Where the lowest loss came before W moved, what is saved is the LoRA of that time."""
    params = wanted(start=0.7).model_copy(update={
        "validation": Validation(keep="best", times=10),
        "optimizer": Optimizer(learning_rate=1e-2, schedule="constant"),
    })  # fmt: skip
    tuned, result = runs.fit(tiny_base, tmp_path / "work", params)
    lowest = min(result.validations, key=lambda validation: validation.loss)
    assert 0 < lowest.step <= 7 < result.history[-1].step
    found = runs.loss(tuned.runner, runs.ROWS[:3]) / sum(sum(row.loss) for row in runs.ROWS[:3])
    assert found == pytest.approx(lowest.loss, rel=1e-6)


def test_bfloat16_trains_and_comes_back(tiny_base: Path, tmp_path: Path) -> None:
    tuned, result = runs.fit(
        tiny_base, tmp_path / "work", wanted().model_copy(update={"launch": Launch(dtype="bfloat16")})
    )
    adapter = runs.saved(tuned, tmp_path / "adapter")
    assert {value.dtype for value in load_file(adapter / "adapter_model.safetensors").values()} == {torch.bfloat16}
    found = runs.logits(runs.reloaded(tiny_base, adapter, torch.bfloat16)).float()
    torch.testing.assert_close(found, runs.logits(tuned.runner).float(), rtol=0.05, atol=0.02)
    assert result.validations[-1].loss < result.validations[0].loss


def test_the_base_is_untouched(tiny_base: Path, tmp_path: Path) -> None:
    tuned, _ = runs.fit(tiny_base, tmp_path / "work", wanted())
    original = dict(runs.model(tiny_base).named_parameters())
    found = {name.replace(".base_layer", ""): value for name, value in tuned.runner.model.named_parameters()}
    assert all(torch.equal(value, found[name]) for name, value in original.items())


def test_what_is_not_finite_is_not_written(tiny_base: Path, tmp_path: Path) -> None:
    tuned = runs.attach(tiny_base, wanted())
    next(iter(tuned.trainable().values())).data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="is not finite: nothing is written"):
        runs.saved(tuned, tmp_path / "adapter")
    assert list((tmp_path / "adapter").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": {"ratio": 0}}, "train.options.ratio"),
        ({"options": {"start": 1.0}}, "train.options.start"),
        ({"options": {"dropout": 0.1}}, "known here: ratio, start"),
        ({"rank": 64}, "train.rank=64 is above the smaller side of model.layers.0"),
        ({"targets": ("q_prj",)}, "did you mean 'q_proj'?"),
    ],
)
def test_what_can_t_be_is_refused_before_training(tiny_base: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        runs.attach(tiny_base, runs.params("delta_lora", **changes))
    assert says in str(caught.value)
