"""PEFT's tuners as methods: the table fits the installed PEFT, options are checked, nothing is lost in bfloat16."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams
from tasks.ml import attention, loading, methods, peft_method
from tasks.ml.peft_table import ABSENT, ELSEWHERE, TUNERS
from tasks.ml.tuned import Ahead, Tuned
from tests import method_cases
from tests.tiny import Family

WITH_FILES = {"lora", "adalora", "xlora", "prefix_tuning", "prompt_tuning", "p_tuning"}
"""What PEFT has and tuneline has in a file of its own, by PEFT's names."""


def model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    loaded = loading.load(folder, dtype, attention=attention.NAME)
    loaded.requires_grad_(False)
    return loaded


def params(method: str, **changes: Any) -> TrainParams:
    return method_cases.params(method).model_copy(update=changes)


def attach(frozen: Any, wanted: TrainParams) -> Tuned:
    method, options = methods.find(wanted)
    torch.manual_seed(7)
    return method.attach(frozen, wanted, options, Ahead(4, ()))


def refusal(frozen: Any, wanted: TrainParams) -> str:
    with pytest.raises(ParamsError) as caught:
        attach(frozen, wanted)
    return str(caught.value)


def test_the_table_says_of_every_tuner_of_the_installed_peft_what_becomes_of_it() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    there = {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert len(there) > 30
    assert there - TUNERS.keys() - ABSENT.keys() - WITH_FILES == set()
    assert TUNERS.keys() <= there
    assert not TUNERS.keys() & ABSENT.keys()


@pytest.mark.parametrize("name", TUNERS)
def test_what_the_table_names_are_fields_of_the_config(name: str) -> None:
    tuner, fields = TUNERS[name], {item.name for item in dataclasses.fields(peft_method.config_class(name))}
    divides = {tuner.divides[0]} if tuner.divides else set[str]()
    own = {option for option in (tuner.rank, tuner.alpha) if option}
    assert own | divides | tuner.defaults.keys() | set(tuner.required) | tuner.refused.keys() <= fields
    assert "target_modules" in fields
    assert (tuner.rank == "r") or ("r" not in fields) or name in ("oft", "supertuning")


@pytest.mark.parametrize("name", [name for name, tuner in TUNERS.items() if not tuner.conv1d and not tuner.needs])
def test_peft_itself_can_t_put_it_on_gpt2(tiny_bases: dict[Family, Path], name: str) -> None:
    """So that the table refuses no more than it must."""
    import peft

    frozen, wanted = model(tiny_bases["gpt2"]), method_cases.params(name)
    settings = {**wanted.options, "target_modules": ["c_fc"]}
    config = peft_method.config_class(name)(**settings, task_type="CAUSAL_LM")
    try:
        made = peft.get_peft_model(frozen, config)
    except (TypeError, ValueError, NotImplementedError):
        return
    assert not any(value.requires_grad for value in made.parameters())


def test_options_are_asked_of_peft_only_where_there_are_some() -> None:
    code = """
import sys
from tasks.core.sections import TrainParams
from tasks.ml import methods
for name in methods.known():
    try:
        methods.find(TrainParams(method=name))
    except Exception as error:
        assert type(error).__name__ == "ParamsError", error
print(len(methods.known()), "peft" in sys.modules, "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) > 30 and said[1:] == ["False", "False"]


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("vera", {"d_inital": 0.2}, "train.options.d_inital: unknown key; did you mean 'd_initial'? known here: bias, d_initial"),
        ("vera", {"d_initial": "much"}, "train.options.d_initial: Input should be a valid number"),
        ("vera", {"bias": 3}, "train.options.bias: Input should be a valid string (found 3)"),
        ("vera", {"r": 8}, "r is no option of vera: it is train.rank"),
        ("loha", {"alpha": 8}, "alpha is no option of loha: it is train.alpha"),
        ("ia3", {"target_modules": ["k_proj"]}, "target_modules is no option of ia3: it is train.targets"),
        ("ia3", {"inference_mode": True}, "inference_mode is no option of ia3: tuneline sets it"),
        ("ia3", {"modules_to_save": ["lm_head"]}, "modules_to_save is no option of ia3: with tied embeddings"),
        ("pvera", {"generator_seed": 3}, "generator_seed is no option of pvera: a generator of its own"),
        ("lokr", {"init_weights": "lycros"}, "train.options.init_weights"),
        ("trainable_tokens", {}, "train.options.token_indices: Field required"),
        ("poly", {}, "train.method=poly: PEFT has it, tuneline has not: it needs a task number with each row"),
        ("bone", {}, "it is called miss now"),
        ("verra", {}, "unknown method 'verra'; did you mean 'vera' or 'pvera'? known: "),
    ],
)  # fmt: skip
def test_bad_names_and_options_are_refused_before_anything_runs(
    method: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        methods.find(params(method, options=options))
    assert says in str(caught.value)


@pytest.mark.parametrize("name", [*ELSEWHERE])
def test_what_tuneline_sets_is_an_option_of_no_tuner(name: str) -> None:
    for method in ("vera", "frod", "ia3"):
        with pytest.raises(ParamsError, match=f"{name} is no option of {method}"):
            methods.find(params(method, options={name: 1}))


@pytest.mark.parametrize(
    ("method", "changes", "says"),
    [
        ("loha", {"alpha": 8.5}, "train.alpha=8.5: loha takes a whole number"),
        ("loha", {"rank": 64}, "train.rank=64 is above the smaller side of model.layers.0."),
        ("boft", {"targets": ("q_porj",)}, "no linear layer is called 'q_porj'; did you mean 'q_proj'?"),
        ("ln_tuning", {"targets": ("nrom",)}, "no norm is called 'nrom'; did you mean 'norm'?"),
        ("ln_tuning", {"targets": ("q_proj",)}, "no norm is called 'q_proj'"),
        ("c3a", {"options": {"block_size": 24}}, "train.method: PEFT refuses: The block size should be a factor"),
        ("waveft", {"options": {"n_frequency": 5000}}, "train.method: PEFT refuses: `n_frequency` should be"),
        (
            "ia3",
            {"options": {"feedforward_modules": ["down_prj"]}},
            "no chosen layer is called 'down_prj'; did you mean",
        ),
        ("trainable_tokens", {"options": {"token_indices": []}}, "there is none in the list of the base's 512 tokens"),
        ("trainable_tokens", {"options": {"token_indices": [3, 512]}}, "512 is none of the base's 512 tokens"),
    ],
)
def test_what_can_t_fit_the_base_is_refused(
    tiny_bases: dict[Family, Path], method: str, changes: dict[str, Any], says: str
) -> None:
    assert says in refusal(model(tiny_bases["llama"]), params(method, **changes))


def config(tuned: Tuned) -> Any:
    made: Any = tuned.save
    return made.args[0].peft_config["default"]


@pytest.mark.parametrize(
    ("method", "rank", "alpha"),
    [("gralora", "r", "alpha"), ("psoft", "r", "psoft_alpha"), ("randlora", "r", "randlora_alpha")],
)
def test_rank_and_alpha_have_the_config_s_own_names(
    tiny_bases: dict[Family, Path], method: str, rank: str, alpha: str
) -> None:
    made = config(attach(model(tiny_bases["llama"]), params(method, rank=8, alpha=12.0)))
    assert (getattr(made, rank), getattr(made, alpha)) == (8, 12)


@pytest.mark.parametrize(
    ("method", "option"), [("c3a", "block_size"), ("vblora", "vector_length"), ("road", "group_size")]
)
def test_a_size_that_must_divide_the_layers_does(tiny_bases: dict[Family, Path], method: str, option: str) -> None:
    assert getattr(config(attach(model(tiny_bases["llama"]), params(method))), option) == 16
    assert getattr(config(attach(model(tiny_bases["llama"]), params(method, options={option: 8}))), option) == 8


@pytest.mark.parametrize(("family", "ends"), [("llama", "down_proj"), ("qwen3", "down_proj"), ("gpt2", "mlp.c_proj")])
def test_ia3_scales_what_goes_into_the_end_of_an_mlp_and_what_comes_out_elsewhere(
    tiny_bases: dict[Family, Path], family: Family, ends: str
) -> None:
    """Liu et al. 2022, section 3.3: l_ff on the inner activations, l_k and l_v on what comes out."""
    from tasks.ml import targets

    tuned = attach(model(tiny_bases[family]), params("ia3"))
    sides = {name: targets.sides(layer) for name, layer in targets.linear(model(tiny_bases[family])).items()}
    found = {name.partition(".ia3_l")[0]: value.numel() for name, value in tuned.trainable().items()}
    assert found == {name: side[0] if name.endswith(ends) else side[1] for name, side in sides.items()}


@pytest.mark.parametrize("family", ["llama", "qwen", "qwen3", "gpt2"])
def test_ln_tuning_reaches_every_norm(tiny_bases: dict[Family, Path], family: Family) -> None:
    tuned = attach(model(tiny_bases[family]), params("ln_tuning"))
    frozen = model(tiny_bases[family])
    wanted = sum(
        value.numel()
        for module in frozen.modules()
        if type(module).__name__.endswith("Norm")
        for value in module.parameters()
    )
    assert sum(value.numel() for value in tuned.trainable().values()) == wanted > 0


@pytest.mark.parametrize("tie", [True, False])
def test_trained_tokens_reach_a_tied_head(tmp_path: Path, tie: bool) -> None:
    """Only what goes in, where the head has a matrix of its own."""
    from tests import tiny

    base = tiny.make_base(tmp_path / "base", tie=tie)
    tuned, before = attach(model(base), params("trainable_tokens")), model(base)
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(1)
        states = torch.ones(1, 32)
        change = tuned.runner.model.get_output_embeddings()(states) - before.get_output_embeddings()(states)
    assert change.nonzero()[:, 1].tolist() == ([1, 2, 40, 41] if tie else [])


@pytest.mark.parametrize("method", ["delora", "ia3", "vera", "road"])
def test_values_near_one_move_in_a_bfloat16_base_and_come_back_whole(
    tiny_bases: dict[Family, Path], tmp_path: Path, method: str
) -> None:
    """In bfloat16 a step of 1e-3 from 1, or of 1e-2 from DeLoRA's 15, is rounded away."""
    tuned = attach(model(tiny_bases["llama"], torch.bfloat16), params(method))
    with torch.no_grad():
        for value in tuned.trainable().values():
            assert value.dtype == torch.float32
            value.add_(1e-3)
    tuned.save(tmp_path)
    again = dict(loading.with_adapter(model(tiny_bases["llama"], torch.bfloat16), tmp_path).model.named_parameters())
    assert all(torch.equal(value, again[name]) for name, value in tuned.trainable().items())
