"""LoRA with each of its options: trained, saved, loaded again on the untouched base; refused where it can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tasks.core.errors import ModelError, ParamsError
from tasks.ml import loading, methods, training
from tasks.ml.lora import ranks, stored
from tests import adapting, tiny
from tests.tiny import Family

STARTS = ["gaussian", "xavier", "orthogonal", "eva", "pissa", "pissa_niter_4", "olora", "corda", "corda_kpm"]
OPTIONS: dict[str, dict[str, Any]] = {
    **{start: {"init": start} for start in STARTS},
    "dropout": {"dropout": 0.2},
    "rslora": {"rslora": True},
    "rslora with pissa and patterns": {
        "rslora": True, "init": "pissa", "rank_pattern": {"mlp.*": 2}, "alpha_pattern": {"q_proj": 5}
    },
    "patterns": {"rank_pattern": {"layers.1.mlp.up_proj": 3, "mlp.*": 2}, "alpha_pattern": {"(q|v)_proj": 5}},
    "tied head": {"modules_to_save": ["lm_head"]},
    "tied embeddings": {"modules_to_save": ["embed_tokens"]},
    "norm": {"modules_to_save": ["norm"]},
    "sensitivity": {"allocate": {"by": "sensitivity"}},
    "gradient with olora": {"allocate": {"by": "gradient", "budget": 0.5}, "init": "olora"},
    "variance with eva": {"allocate": {"by": "variance", "max_rank": 6}, "init": "eva"},
}  # fmt: skip


HALF = ["pissa", "corda", "rslora with pissa and patterns", "tied head", "gradient with olora"]
"""Options that are tried in bfloat16 too."""


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in OPTIONS), *((name, "bfloat16") for name in HALF)]
)
def test_every_option_trains_and_reloads(tiny_base: Path, tmp_path: Path, name: str, dtype: str) -> None:
    wanted = adapting.params("lora", dtype, **OPTIONS[name])
    start = {key: value.clone() for key, value in adapting.attach(tiny_base, wanted).trainable().items()}
    tuned, result = adapting.fit(tiny_base, tmp_path / "work", wanted)
    assert [key for key, value in tuned.trainable().items() if torch.equal(value, start[key])] == []
    assert result.validations[-1].loss < result.validations[0].loss
    adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)


@pytest.mark.parametrize("start", ["kaiming", *STARTS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_starts_from_the_base_itself(tiny_base: Path, start: str, dtype: str) -> None:
    wanted = adapting.params("lora", dtype, init=start)
    found, untouched = (
        adapting.probe(model)
        for model in (adapting.attach(tiny_base, wanted).runner.model, adapting.base(tiny_base, wanted))
    )
    if start == "orthogonal":  # B A is zero but for rounding
        torch.testing.assert_close(found, untouched, rtol=0, atol=1e-6 if dtype == "float32" else 0.02)
    else:
        assert torch.equal(found, untouched)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("gpt2", name) for name in ("eva", "pissa", "olora", "corda", "patterns", "sensitivity")),
        *((family, name) for family in ("qwen", "gpt2") for name in ("biases", "all biases")),
        ("qwen3", "pissa"),
    ],
)
def test_other_families(tiny_bases: dict[Family, Path], tmp_path: Path, family: Family, name: str) -> None:
    llamas = {**OPTIONS, "biases": {"bias": "lora_only"}, "all biases": {"bias": "all"}}[name]
    options = {"rank_pattern": {"mlp.*": 2}, "alpha_pattern": {"c_attn": 5}} if family == "gpt2" else llamas
    wanted = adapting.params("lora", **(llamas if name != "patterns" else options))
    tuned, _ = adapting.fit(tiny_bases[family], tmp_path / "work", wanted)
    biases = [key for key in tuned.trainable() if key.endswith("bias")]
    assert bool(biases) == ("biases" in name)
    adapting.assert_reloads(tiny_bases[family], tmp_path, wanted, tuned)


def test_what_is_saved_is_a_plain_lora_of_twice_the_rank(tiny_base: Path, tmp_path: Path) -> None:
    wanted = adapting.params("lora", init="pissa", rank_pattern={"q_proj": 2})
    tuned, _ = adapting.fit(tiny_base, tmp_path / "work", wanted)
    saved = adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)
    config = json.loads((saved / "adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (8, 64.0, {"q_proj": 4})
    assert config["init_lora_weights"] is True and not config["use_dora"]
    tensors = load_file(saved / "adapter_model.safetensors")
    assert len(tensors) == 28 and all(".weight" in name and "parametri" not in name for name in tensors)
    assert {value.shape[0] for name, value in tensors.items() if "lora_A" in name} == {4, 8}


def test_tied_embeddings_stay_tied(tiny_base: Path, tmp_path: Path) -> None:
    """huggingface/transformers#45127: a trained head of a tied model was lost on reload."""
    wanted = adapting.params("lora", modules_to_save=["lm_head"])
    tuned, _ = adapting.fit(tiny_base, tmp_path / "work", wanted)
    model: Any = tuned.runner.model
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embeddings.weight and head.weight.requires_grad
    assert not torch.equal(head.weight, adapting.base(tiny_base, wanted).get_output_embeddings().weight)
    adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)


@pytest.mark.parametrize("family", ["qwen", "gpt2"])
def test_tied_embeddings_by_other_names(tiny_bases: dict[Family, Path], tmp_path: Path, family: Family) -> None:
    wanted = adapting.params("lora", modules_to_save=["wte" if family == "gpt2" else "embed_tokens"])
    tuned, _ = adapting.fit(tiny_bases[family], tmp_path / "work", wanted)
    model: Any = tuned.runner.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    adapting.assert_reloads(tiny_bases[family], tmp_path, wanted, tuned)


def test_an_untied_head_trains_alone(tmp_path: Path) -> None:
    base = tiny.make_base(tmp_path / "base", tie=False)
    wanted = adapting.params("lora", modules_to_save=["lm_head"])
    tuned, _ = adapting.fit(base, tmp_path / "work", wanted)
    assert [name for name in tuned.trainable() if "lora" not in name] == ["lm_head.modules_to_save.default.weight"]
    adapting.assert_reloads(base, tmp_path, wanted, tuned)


@pytest.mark.parametrize("options", [{"init": "pissa_niter_4"}, {"allocate": {"by": "sensitivity"}}])
def test_a_killed_run_ends_alike(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    wanted = adapting.params("lora", "bfloat16", **options)
    tuned = adapting.assert_a_killed_run_ends_alike(tiny_base, tmp_path, wanted, monkeypatch)
    assert bool(tuned.state()) == ("pissa" in str(options))


def test_ranks_by_importance_keep_the_budget(tiny_base: Path) -> None:
    uniform, shared = (
        sum(
            value.numel()
            for value in adapting.attach(tiny_base, adapting.params("lora", **options)).trainable().values()
        )
        for options in ({}, {"allocate": {"by": "sensitivity"}})
    )
    assert 0.8 * uniform < shared <= uniform


def test_ranks_by_importance_are_those_of_the_pure_function(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, int]] = []
    real = ranks.share_out
    monkeypatch.setattr(ranks, "share_out", lambda *arguments: given.append(real(*arguments)) or given[-1])
    model: Any = adapting.attach(tiny_base, adapting.params("lora", allocate={"by": "gradient"})).runner.model
    found = {name: layer.r["default"] for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    assert given == [found] and len(set(found.values())) > 1


def test_peft_counts_the_same_ranks(tiny_base: Path, tmp_path: Path) -> None:
    wanted = adapting.params("lora", **OPTIONS["patterns"])
    tuned, _ = adapting.fit(tiny_base, tmp_path / "work", wanted)
    saved = adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)
    theirs: Any = PeftModel.from_pretrained(adapting.base(tiny_base, wanted), str(saved)).get_base_model()
    layers = {name: layer for name, layer in theirs.named_modules() if hasattr(layer, "lora_A")}
    assert {name: layer.r["default"] for name, layer in layers.items() if "mlp" in name} == {
        name: 3 if name == "model.layers.1.mlp.up_proj" else 2 for name in layers if "mlp" in name
    }
    assert layers["model.layers.0.self_attn.v_proj"].scaling["default"] == 5 / 4
    assert layers["model.layers.0.self_attn.k_proj"].scaling["default"] == 32 / 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"rank_pattern": {"q_prj": 2}},
            "rank_pattern: no layer that trains is called 'q_prj'; did you mean 'q_proj'?",
        ),
        ({"alpha_pattern": {"lm_head": 2}}, "alpha_pattern: no layer that trains is called 'lm_head'"),
        (
            {"rank_pattern": {"k_proj": 17}},
            "rank_pattern=17 is above the smaller side of model.layers.0.self_attn.k_proj",
        ),
        ({"bias": "all"}, "bias=all: the layers of this base have no biases"),
        ({"modules_to_save": ["embed_token"]}, "no module is called 'embed_token'; did you mean 'embed_tokens'?"),
        ({"modules_to_save": ["mlp"]}, "model.layers.0.mlp trains in full, and model.layers.0.mlp.gate_proj in it"),
        ({"init": "orthogonal", "rank_pattern": {"q_proj": 3}}, "rank to be even, got 3"),
        ({"allocate": {"by": "gradient", "budget": 0.1}}, "rank 1 everywhere takes"),
    ],
)
def test_what_can_t_fit_is_refused(tiny_base: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        adapting.attach(tiny_base, adapting.params("lora", **options))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"init": "pisa"}, "init: no such start; known here: kaiming, gaussian, xavier, orthogonal, eva, pissa"),
        ({"init": "pissa_niter_K"}, "no such start"),
        ({"init": "loftq"}, "it makes up for quantisation: that is train.method=qlora"),
        ({"rank_pattern": {"q_proj": 2}, "allocate": {"by": "gradient"}}, "both say the ranks"),
        (
            {"alocate": {}},
            "train.options.alocate: unknown key; did you mean 'allocate'? known here: allocate, alpha_pattern, bias",
        ),
        (
            {"allocate": {"bye": 1}},
            "train.options.allocate.bye: unknown key; did you mean 'by'? known here: budget, by, max_rank",
        ),
    ],
)
def test_wrong_options_are_known_before_anything_runs(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        methods.find(adapting.params("lora", **options))
    assert says in str(caught.value)


def test_a_pattern_may_lift_a_rank_that_would_not_fit(tiny_base: Path) -> None:
    """k and v have 16 outputs: the default rank is above them, their own is not."""
    wanted = adapting.params("lora", rank=24, rank_pattern={"[kv]_proj": 8})
    assert len(adapting.attach(tiny_base, wanted).trainable()) == 28


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_base_that_is_not_finite_is_refused(tmp_path: Path, broken: float) -> None:
    base = tiny.make_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = broken
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"model.layers.1.mlp.up_proj.weight is {broken} at \[3, 5\]"):
        adapting.base(base, adapting.params("lora"))


@pytest.mark.parametrize("kind", stored.NO_DORA)
def test_dora_beside_a_packed_base_names_what_works(tiny_base: Path, kind: str) -> None:
    wanted = adapting.params("dora")
    model = adapting.base(tiny_base, wanted)
    model.config.quantization_config = {"quant_method": kind}
    method, options = methods.find(wanted)
    with pytest.raises(ParamsError, match=rf"a base in {kind}: use train.method=lora on it, or train.method=qlora"):
        method.attach(model, wanted, options, adapting.Ahead(10, adapting.PACKS))


def test_one_step_is_adamws(tiny_base: Path, tmp_path: Path) -> None:
    """The first step on A and B in float64: B moves by the rate towards -sign of its gradient, A not at all (B = 0)."""
    wanted = adapting.params("lora").model_copy(update={"epochs": 1, "batch": adapting.Batch(packs=20)})
    tuned = adapting.attach(tiny_base, wanted)
    before = {name: value.detach().clone() for name, value in tuned.trainable().items()}
    training.fit(tuned, adapting.PACKS, [], wanted, adapting.Checkpoints(tmp_path / "work", 1e9))
    for name, value in tuned.trainable().items():
        moved = value.detach() - before[name]
        if "lora_A" in name:
            assert not moved.any()
        else:
            torch.testing.assert_close(
                moved.abs().max().item(), training.learning_rate(0, 1, wanted.optimizer), rtol=1e-3, atol=0
            )


def test_loading_in_eval_mode(tiny_base: Path, tmp_path: Path) -> None:
    """peft#2438: dropout of an adapter loaded in training mode gave random outputs."""
    wanted = adapting.params("lora", dropout=0.5)
    tuned, _ = adapting.fit(tiny_base, tmp_path / "work", wanted)
    saved = adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)
    model = loading.with_adapter(adapting.base(tiny_base, wanted), saved).model
    assert not any(module.training for module in model.modules())
