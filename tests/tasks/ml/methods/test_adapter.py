"""Bottleneck adapters against the papers' equations in float64, through training, the file and generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import Launch, Optimizer
from tasks.ml import blocks, loading, own_adapter
from tests import runs
from tests.tiny import FAMILIES, Family


def wanted(**options: Any) -> Any:
    return runs.params("adapter", options={"size": 3, **options})


def literal(tensors: dict[str, Tensor]) -> runs.Step:
    """A(h) = h + W_up gelu(W_down h) on what a half of a layer adds to the hidden states."""

    def adapted(h: Tensor, name: str) -> Tensor:
        if f"{name}.adapter.up.bias" not in tensors:
            return h
        inner = h @ tensors[f"{name}.adapter.down.weight"].T + tensors[f"{name}.adapter.down.bias"]
        gelu = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
        return h + gelu @ tensors[f"{name}.adapter.up.weight"].T + tensors[f"{name}.adapter.up.bias"]

    return adapted


def loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[0, :-1], ids[0, 1:])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_it_is_the_papers_equation(tiny_bases: dict[Family, Path], family: Family, placement: str) -> None:
    """Loss, gradients and three steps of AdamW."""
    tuned = runs.attach(tiny_bases[family], wanted(placement=placement, norms=False))
    ours: Any = tuned.runner.model.double().eval()
    ours.set_attn_implementation("eager")
    trainable = tuned.trainable()
    model: Any = runs.model(tiny_bases[family], torch.float64, "eager").eval()
    tensors = {name: value.detach().clone().requires_grad_() for name, value in trainable.items()}
    assert len(tensors) == 2 * 4 * (2 if placement == "houlsby" else 1)
    mine, theirs = (
        torch.optim.AdamW(values, lr=1e-1, weight_decay=0.1) for values in (trainable.values(), tensors.values())
    )
    for number in range(3):
        ids = torch.tensor([runs.row(number, 20).ids])
        found = loss(ours(input_ids=ids).logits, ids)
        states = model.get_input_embeddings()(ids).detach()
        expected = loss(runs.spelled_out(model, states, half=literal(tensors)), ids)
        runs.assert_steps_alike(found, expected, trainable, tensors, (mine, theirs))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_it_trains_resumes_saves_and_comes_back(
    tiny_bases: dict[Family, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, placement: str
) -> None:
    base = tiny_bases[family]
    tuned = runs.assert_killed_ends_as_undisturbed(base, tmp_path, wanted(placement=placement), monkeypatch)
    start = runs.attach(base, wanted(placement=placement)).trainable()
    assert [name for name, value in tuned.trainable().items() if torch.equal(value, start[name])] == []
    adapter = runs.saved(tuned, tmp_path / "adapter")
    norms = {name for name in load_file(adapter / own_adapter.TENSORS) if ".adapter." not in name}
    per_layer = {"gpt2": 4}.get(family, 2)
    assert len(norms) == (0 if placement == "pfeiffer" else 2 * per_layer + per_layer // 2)
    runs.assert_comes_back(base, adapter, tuned)


def test_it_starts_near_the_identity(tiny_base: Path) -> None:
    untuned = runs.logits(runs.Runner.of(runs.model(tiny_base)))
    found = runs.logits(runs.attach(tiny_base, wanted()).runner)
    assert 0 < (found - untuned).abs().max() < 1e-2 * untuned.abs().max()


@pytest.mark.parametrize(("size", "found"), [(1 / 16, 2), (1 / 64, 1), (0.5, 16), (7, 7), (1, 1)])
def test_the_size_is_a_number_or_a_share_of_hidden(tiny_base: Path, size: float, found: int) -> None:
    tuned = runs.attach(tiny_base, wanted(size=size))
    assert {value.shape[0] for name, value in tuned.trainable().items() if "down.weight" in name} == {found}


@pytest.mark.parametrize(("activation", "function"), [("relu", F.relu), ("silu", F.silu), ("tanh", torch.tanh)])
def test_the_activation_is_an_option(tiny_base: Path, activation: str, function: Any) -> None:
    tuned: Any = runs.attach(tiny_base, wanted(activation=activation))
    layer = tuned.runner.model.model.layers[0].mlp.adapter
    x = torch.randn(5, 32)
    wanted_output = x + function(x @ layer.down.weight.T) @ layer.up.weight.T
    torch.testing.assert_close(layer(x), wanted_output, rtol=1e-5, atol=1e-6)


def test_bfloat16_trains_and_comes_back(tiny_base: Path, tmp_path: Path) -> None:
    tuned, result = runs.fit(
        tiny_base, tmp_path / "work", wanted().model_copy(update={"launch": Launch(dtype="bfloat16")})
    )
    runs.assert_comes_back(tiny_base, runs.saved(tuned, tmp_path / "adapter"), tuned)
    assert result.validations[-1].loss < result.validations[0].loss


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_computed_again_change_nothing(tiny_bases: dict[Family, Path], family: Family) -> None:
    assert runs.gradients(tiny_bases[family], wanted(), recompute=True) == runs.gradients(tiny_bases[family], wanted())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_generates_as_its_rows_alone(tiny_bases: dict[Family, Path], tmp_path: Path, family: Family) -> None:
    params = wanted().model_copy(update={"optimizer": Optimizer(learning_rate=3e-2)})
    tuned, _ = runs.fit(tiny_bases[family], tmp_path / "work", params)
    runs.assert_batches_generate_as_singles(tiny_bases[family], runs.saved(tuned, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 33}, "train.options.size=33 is wider than the hidden states (32)"),
        ({"size": 0}, "train.options.size"),
        ({"size": 1.5}, "train.options.size"),
        ({"activation": "relu6"}, "train.options.activation"),
        ({"bottleneck": 4}, "known here: activation, norms, placement, size"),
    ],
)
def test_what_can_t_be_is_refused_before_training(tiny_base: Path, options: Any, says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        runs.attach(tiny_base, wanted(**options))
    assert says in str(caught.value)


def test_layers_that_are_made_otherwise_are_refused(tiny_base: Path) -> None:
    model = runs.model(tiny_base)
    model.model.layers[1].extra = torch.nn.Linear(2, 2)
    with pytest.raises(ParamsError) as caught:
        blocks.blocks(model)
    assert str(caught.value) == (
        "train.method: the layer model.layers.1 (LlamaDecoderLayer) is no attention with a feed-forward, it has "
        "self_attn, mlp, extra: choose lora for this base"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 4}, "adapter.down.weight is (3, 32), the model has (4, 32)"),
        ({"placement": "houlsby", "norms": True}, "lacks model.layers.0.input_layernorm.weight"),
        ({"size": 10**12}, "does not fit the base: train.options.size=1000000000000 is wider"),
        ({"depth": 2}, "options.depth: unknown key"),
    ],
)
def test_a_description_that_lies_is_refused(tiny_base: Path, tmp_path: Path, changes: Any, says: str) -> None:
    tuned, _ = runs.fit(tiny_base, tmp_path / "work", wanted(placement="pfeiffer").model_copy(update={"epochs": 1}))
    adapter = runs.saved(tuned, tmp_path / "adapter")
    described = json.loads((adapter / own_adapter.CONFIG).read_bytes())
    described["options"] |= changes
    (adapter / own_adapter.CONFIG).write_text(json.dumps(described))
    with pytest.raises(ModelError) as caught:
        loading.with_adapter(runs.model(tiny_base), adapter)
    assert says in str(caught.value)
