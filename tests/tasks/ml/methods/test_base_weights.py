"""full, freeze, bitfit and lisa: what trains, what is saved, what comes back."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import Launch, Optimizer
from tasks.ml import blocks, methods, own_adapter
from tasks.ml.methods import lisa
from tasks.ml.tuned import Moment, Tuned
from tests import runs, tiny
from tests.tiny import FAMILIES, Family

WANTED: dict[str, dict[str, Any]] = {
    "full": {},
    "freeze": {"layers": 1, "head": True},
    "bitfit": {},
    "lisa": {"layers": 1, "period": 2},
}
CASES = [
    (method, family) for method in WANTED for family in FAMILIES if method != "bitfit" or family in ("qwen", "gpt2")
]


def wanted(method: str, **changes: Any) -> Any:
    return runs.params(method, options=WANTED[method], **changes)


def expected(model: Any, method: str, family: Family) -> set[str]:
    """Which parameters train, told from their names: independent of how the methods find them."""
    names = [name for name, _ in model.named_parameters()]
    last = "transformer.h.1." if family == "gpt2" else "model.layers.1."
    tables = ("wte.weight", "wpe.weight", "embed_tokens.weight")
    chosen = {
        "full": lambda _name: True,
        "freeze": lambda name: name.startswith(last) or name.endswith(tables[::2]),
        "bitfit": lambda name: name.endswith(".bias"),
        "lisa": lambda name: ".h." in name or ".layers." in name or name.endswith(tables),
    }
    return {name for name in names if chosen[method](name)}


@pytest.mark.parametrize(("method", "family"), CASES)
def test_it_trains_resumes_saves_and_comes_back(
    tiny_bases: dict[Family, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, family: Family
) -> None:
    base = tiny_bases[family]
    tuned = runs.assert_killed_ends_as_undisturbed(base, tmp_path, wanted(method), monkeypatch)
    before = dict(runs.model(base).named_parameters())
    adapter = runs.saved(tuned, tmp_path / "adapter")
    tensors = load_file(adapter / own_adapter.TENSORS)
    model: Any = tuned.runner.model
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert tensors.keys() == changed <= expected(model, method, family)
    if method != "lisa":
        assert changed == expected(model, method, family)
    runs.assert_comes_back(base, adapter, tuned)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("options", [{"head": True}, {"embeddings": True}])
def test_head_and_embeddings_come_back_tied_or_not(tmp_path: Path, tie: bool, options: dict[str, bool]) -> None:
    base = tiny.make_base(tmp_path / "base", tie=tie)
    tuned, _ = runs.fit(base, tmp_path / "work", runs.params("freeze", options={"layers": 1, **options}))
    adapter = runs.saved(tuned, tmp_path / "adapter")
    tables = {name for name in load_file(adapter / own_adapter.TENSORS) if "layers" not in name}
    assert tables == {"lm_head.weight" if "head" in options and not tie else "model.embed_tokens.weight"}
    again: Any = runs.reloaded(base, adapter).model
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tie
    runs.assert_comes_back(base, adapter, tuned)


@pytest.mark.parametrize("method", ["full", "lisa"])
def test_bfloat16_moves_and_comes_back(tiny_bases: dict[Family, Path], tmp_path: Path, method: str) -> None:
    params = wanted(method, launch=Launch(dtype="bfloat16"), optimizer=Optimizer(learning_rate=3e-3))
    tuned, result = runs.fit(tiny_bases["qwen"], tmp_path / "work", params)
    adapter = runs.saved(tuned, tmp_path / "adapter")
    assert {value.dtype for value in load_file(adapter / own_adapter.TENSORS).values()} == {torch.bfloat16}
    runs.assert_comes_back(tiny_bases["qwen"], adapter, tuned)
    assert result.validations[-1].loss < result.validations[0].loss


def test_full_is_adamw_of_torch(tiny_bases: dict[Family, Path], tmp_path: Path) -> None:
    """One step on one batch, in float64: transformers' own loss, the gradient clipped, torch's AdamW."""
    optimizer = Optimizer(schedule="constant", warmup=0.0, learning_rate=1e-2, max_grad_norm=0.5)
    batch = runs.PARAMS.batch.model_copy(update={"packs": len(runs.ROWS), "micro_tokens": 1000})
    params = wanted("full", optimizer=optimizer, batch=batch, epochs=1)
    base = tiny_bases["llama"]
    found, _ = runs.fit(base, tmp_path / "work", params)
    theirs: Any = runs.model(base, torch.float64, "eager")
    total = torch.zeros((), dtype=torch.float64)
    for row in runs.ROWS:
        labels = [token if mark else -100 for token, mark in zip(row.ids, row.loss, strict=True)]
        mean = theirs(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss
        total = total + mean * sum(row.loss)
    (total / sum(sum(row.loss) for row in runs.ROWS)).backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0).step()
    for name, value in theirs.named_parameters():
        moved = found.trainable()[name].double() - runs.model(base).get_parameter(name).double()
        wanted_move = value - runs.model(base).get_parameter(name).double()
        # AdamW's first step is the gradient's sign: where the gradient is nearly nothing, float32 knows no sign
        clear = value.grad.abs() > 1e-7
        assert clear.float().mean() > 0.1
        torch.testing.assert_close(moved[clear], wanted_move[clear], rtol=2e-2, atol=1e-5)


def test_lisa_draws_by_seed_and_step_alone() -> None:
    options = lisa.Options(layers=2, period=3)
    drawn = [lisa.active(7, step, 8, options) for step in range(1, 1201)]
    assert drawn == [lisa.active(7, step, 8, options) for step in range(1, 1201)]
    assert all(len(set(layers)) == 2 for layers in drawn)
    assert all(drawn[start] == drawn[start + 1] == drawn[start + 2] for start in range(0, 1200, 3))
    counts = Counter(layer for layers in drawn[::3] for layer in layers)
    assert sorted(counts) == list(range(8)) and 70 < min(counts.values()) <= max(counts.values()) < 130
    assert drawn != [lisa.active(8, step, 8, options) for step in range(1, 1201)]


def test_lisa_moves_only_the_layers_of_the_period(tmp_path: Path) -> None:
    """And holds optimizer memory for them alone."""
    base = tiny.make_base(tmp_path / "base", layers=4, tie=False)
    params = runs.params("lisa", options={"layers": 1, "period": 2})
    seen: list[dict[str, torch.Tensor]] = []

    def watch(tuned: Tuned) -> Tuned:
        def after(moment: Moment) -> list[str]:
            moving = tuned.trains(moment.step, ())
            assert moving is not None and moving == moment.gradients.keys()
            seen.append({name: value.detach().clone() for name, value in tuned.runner.model.named_parameters()})
            return []

        seen.append({name: value.detach().clone() for name, value in tuned.runner.model.named_parameters()})
        return replace(tuned, after=after)

    tuned, _ = runs.fit(base, tmp_path / "work", params, watch=watch)
    always = {"model.embed_tokens.weight", "lm_head.weight"}
    drawn: set[int] = set()
    for step in range(1, len(seen)):
        layer = lisa.active(params.launch.seed, step, 4, lisa.Options(layers=1, period=2))[0]
        drawn.add(layer)
        moved = {name for name, value in seen[step].items() if not torch.equal(value, seen[step - 1][name])}
        assert moved == always | {name for name in seen[0] if name.startswith(f"model.layers.{layer}.")}
    assert len(seen) == 11 and len(drawn) > 1
    assert "model.norm.weight" not in tuned.trainable()


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("bitfit", {}, "LlamaForCausalLM has no biases in this base; ln_tuning trains its norms"),
        ("freeze", {"layers": 3}, "train.options.layers=3: the base has 2 layers; train.method=full trains all"),
        ("lisa", {"layers": 3}, "train.options.layers=3: the base has 2 layers"),
        ("lisa", {"gamma": 3}, "known here: layers, period"),
        ("freeze", {"layers": 0}, "train.options.layers"),
        ("full", {"layers": 1}, "known here: none"),
    ],
)
def test_what_can_t_be_is_refused_before_training(tiny_base: Path, method: str, options: Any, says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        runs.attach(tiny_base, runs.params(method, options=options))
    assert says in str(caught.value)


def test_a_stack_that_can_t_be_told_is_refused(tiny_base: Path) -> None:
    model = runs.model(tiny_base)
    model.config.num_hidden_layers = 3
    with pytest.raises(ParamsError, match="LlamaForCausalLM has 0 stacks of 3 layers, one is needed: choose lora"):
        blocks.stack(model)


def test_nothing_changed_is_nothing_saved(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tensor of the base changed"):
        runs.saved(runs.attach(tiny_base, runs.params("full")), tmp_path / "adapter")
    assert list((tmp_path / "adapter").iterdir()) == []


def test_the_description_is_complete_and_tells_no_path(tiny_base: Path, tmp_path: Path) -> None:
    tuned, _ = runs.fit(tiny_base, tmp_path / "work", wanted("freeze"))
    adapter = runs.saved(tuned, tmp_path / "adapter")
    text = (adapter / own_adapter.CONFIG).read_text()
    assert str(tiny_base) not in text
    described = json.loads(text)
    assert described | {"base": ...} == {
        "format": 1, "kind": "weights", "method": "freeze", "base": ...,
        "options": {"layers": 1, "head": True, "embeddings": False},
    }  # fmt: skip
    assert described["base"] | {"shapes": ...} == {
        "architecture": "LlamaForCausalLM", "layers": 2, "hidden": 32, "vocabulary": 512, "shapes": ...,
    }  # fmt: skip
    assert sorted(file.name for file in adapter.iterdir()) == [own_adapter.TENSORS, own_adapter.CONFIG]


def test_options_are_known_without_torch() -> None:
    for method in WANTED:
        methods.find(wanted(method))
