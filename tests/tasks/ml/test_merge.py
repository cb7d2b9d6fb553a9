"""Every kind of adapter that can be merged: merged it answers as beside its base, and the weights are PEFT's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tasks.core.errors import ModelError
from tasks.core.sections import TrainParams
from tasks.ml import loading, methods
from tasks.ml.export import merge
from tasks.ml.tuned import Ahead
from tasks.ml.updates import Unmergeable
from tests.merging import GPT2, beside, logits, make, train

LAYERS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make(folder / kind, kind) for kind in ("llama", "tied", "qwen", "gpt2")}


@dataclass(frozen=True)
class Case:
    """`untied`: the merged model has a head of its own where the base had none. `alike`: PEFT merges it right, too."""

    kind: str
    config: Callable[[], Any]
    untied: bool = False
    alike: bool = True


def lora(targets: list[str] = LAYERS, **changes: Any) -> Callable[[], Any]:
    return lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM", **changes)


def other(name: str, targets: list[str] = LAYERS, **changes: Any) -> Callable[[], Any]:
    return lambda: getattr(peft, name)(target_modules=targets, task_type="CAUSAL_LM", **changes)


PATTERNS = {
    "rank_pattern": {"q_proj": 8, r"layers\.1\.self_attn\.v_proj": 2},
    "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "v_proj": 5},
}

CASES = {
    "lora": Case("llama", lora()),
    "rslora": Case("qwen", lora(use_rslora=True)),
    "patterns": Case("llama", lora(**PATTERNS)),
    "patterns rslora": Case("llama", lora(**PATTERNS, use_rslora=True)),
    "biases": Case("gpt2", lora(GPT2, bias="all")),
    "biases of its layers": Case("qwen", lora(bias="lora_only")),
    "a bias in B": Case("qwen", lora(["q_proj", "v_proj"], lora_bias=True)),
    "turned": Case("gpt2", lora(GPT2)),
    "a norm beside": Case("llama", lora(modules_to_save=["input_layernorm"])),
    "a head beside": Case("llama", lora(modules_to_save=["lm_head"])),
    "a tied head beside": Case("tied", lora(modules_to_save=["lm_head"]), untied=True),
    "tied embeddings beside": Case("qwen", lora(modules_to_save=["embed_tokens"]), untied=True),
    "tied embeddings of GPT-2 beside": Case("gpt2", lora(GPT2, modules_to_save=["wte"]), untied=True),
    "both tied ends": Case("tied", lora(modules_to_save=["lm_head"], ensure_weight_tying=True)),
    "embeddings": Case("llama", lora(["embed_tokens", "q_proj"])),
    "tied embeddings": Case("tied", lora(["embed_tokens", "q_proj"]), untied=True, alike=False),
    "a tied head": Case("tied", lora(["lm_head", "q_proj"]), untied=True, alike=False),
    "tokens beside": Case("qwen", lora(trainable_token_indices=[3, 5, 64])),
    "tokens by layer beside": Case("llama", lora(trainable_token_indices={"embed_tokens": [3, 64]})),
    "tokens": Case("llama", lambda: peft.TrainableTokensConfig(token_indices=[3, 5, 64], task_type="CAUSAL_LM")),
    "tied tokens": Case("tied", lambda: peft.TrainableTokensConfig(token_indices=[3, 5, 64], task_type="CAUSAL_LM")),
    "dora": Case("llama", lora(use_dora=True)),
    "dora turned": Case("gpt2", lora(GPT2, use_dora=True)),
    "dora rslora patterns": Case("qwen", lora(use_dora=True, use_rslora=True, rank_pattern={"q_proj": 8}, bias="all")),
    "adalora": Case("llama", other("AdaLoraConfig", init_r=6, target_r=4, total_step=10, lora_alpha=6)),
    "adalora turned": Case("gpt2", other("AdaLoraConfig", GPT2, init_r=6, target_r=4, total_step=10)),
    "pissa": Case("llama", lora(init_lora_weights="pissa")),
    "ia3": Case("llama", other("IA3Config", feedforward_modules=["down_proj"])),
    "ia3 turned": Case("gpt2", other("IA3Config", GPT2, feedforward_modules=["c_fc"])),
    "vera": Case("llama", other("VeraConfig", ["q_proj", "o_proj"], r=16)),
    "oft": Case("qwen", other("OFTConfig", r=0, oft_block_size=8)),
    "boft": Case("llama", other("BOFTConfig", boft_block_size=8)),
    "loha": Case("llama", other("LoHaConfig", r=4)),
    "lokr": Case("llama", other("LoKrConfig", r=4)),
    "fourierft": Case("llama", other("FourierFTConfig", n_frequency=32)),
    "ln_tuning": Case("llama", lambda: peft.LNTuningConfig(task_type="CAUSAL_LM")),
    "randlora": Case("llama", other("RandLoraConfig", r=4)),
    "miss": Case("llama", other("MissConfig", r=4)),
    "road": Case("llama", other("RoadConfig", group_size=8)),
    "hra": Case("llama", other("HRAConfig", r=4)),
    "shira": Case("llama", other("ShiraConfig", r=4)),
    "vblora": Case("llama", other("VBLoRAConfig", num_vectors=32, vector_length=16)),
    "c3a": Case("llama", other("C3AConfig", block_size=8)),
    "waveft": Case("llama", other("WaveFTConfig", n_frequency=32)),
    "osf": Case("llama", other("OSFConfig", effective_rank=8)),
    "frod": Case("llama", other("FrodConfig", progressbar=False)),
    "modules of another kind": Case("tied", other("IA3Config", feedforward_modules=[], modules_to_save=["lm_head"]), untied=True),
    "biases of another kind": Case("gpt2", other("VeraConfig", ["c_attn"], r=16, bias="all")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_merged_it_answers_as_beside_its_base(tmp_path: Path, bases: dict[str, Path], name: str) -> None:
    case = CASES[name]
    base = bases[case.kind]
    adapter = train(base, case.config(), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    facts = merge.write(base, adapter, tmp_path / "merged", "base")
    assert facts["untied"] == case.untied and facts["survival_min"] == 1.0
    wanted, found = logits(beside(base, adapter)), logits(loading.load(tmp_path / "merged", torch.float32))
    assert (wanted - logits(loading.load(base, torch.float32))).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    if case.alike:
        _compare(tmp_path / "merged", beside(base, adapter).merge_and_unload())


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2"])
def test_tensors_in_place_of_the_base_s_own_are_merged(tmp_path: Path, bases: dict[str, Path], kind: str) -> None:
    """`full` on a tied base leaves head and embeddings tied: its adapter has them once."""
    params = TrainParams(method="full", rank=4)
    method, options = methods.find(params)
    tuned = method.attach(loading.load(bases[kind], torch.float32), params, options, Ahead(1, ()))
    torch.manual_seed(1)
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn_like(value) * 0.05)
    (tmp_path / "adapter").mkdir()
    tuned.save(tmp_path / "adapter")
    out = merged(bases[kind], tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits(loading.load(out, torch.float32)), logits(tuned.runner.model), rtol=0, atol=0)
    assert load_file(out / "model.safetensors").keys() == load_file(bases[kind] / "model.safetensors").keys()


def _compare(folder: Path, theirs: Any) -> None:
    """Ours, as a plain load gives it, against what PEFT makes of the same."""
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    wanted = theirs.state_dict()
    assert ours.keys() == wanted.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def merged(base: Path, adapter: Path, into: Path, dtype: str = "base") -> Path:
    into.mkdir()
    merge.write(base, adapter, into, dtype)
    return into


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["dora", "adalora", "patterns rslora", "ia3"])
def test_a_16_bit_base_is_changed_in_float32_and_rounded_once(
    tmp_path: Path, bases: dict[str, Path], name: str, stored: torch.dtype
) -> None:
    model: Any = loading.load(bases["llama"], stored)
    model.save_pretrained(tmp_path / "base")
    adapter = train(tmp_path / "base", CASES[name].config(), tmp_path / "adapter")
    found = load_file(merged(tmp_path / "base", adapter, tmp_path / "merged") / "model.safetensors")
    wanted = beside(tmp_path / "base", adapter).merge_and_unload().state_dict()
    for key, value in found.items():
        assert value.dtype == stored
        torch.testing.assert_close(value, wanted[key].to(stored), rtol=0.01, atol=1e-6, msg=key)


@pytest.mark.parametrize("dtype", ["base", "float32"])
def test_a_head_of_its_own_is_found_in_a_base_of_several_files(tmp_path: Path, dtype: str) -> None:
    base = make(tmp_path / "base", "tied", max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 3
    adapter = train(base, lora(modules_to_save=["lm_head"])(), tmp_path / "adapter")
    out = merged(base, adapter, tmp_path / "merged", dtype)
    listed = json.loads((out / "model.safetensors.index.json").read_bytes())["weight_map"]
    assert "lm_head.weight" in listed and set(listed.values()) == {file.name for file in out.glob("*.safetensors")}
    assert not json.loads((out / "config.json").read_bytes())["tie_word_embeddings"]
    torch.testing.assert_close(logits(loading.load(out, torch.float32)), logits(beside(base, adapter)))


def test_the_files_may_leave_out_the_first_part_of_a_name(tmp_path: Path, bases: dict[str, Path]) -> None:
    """As GPT-2's own checkpoint does."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((bases["gpt2"] / "config.json").read_bytes())
    whole = load_file(bases["gpt2"] / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in whole.items()}
    save_file(short, base / "model.safetensors", metadata={"format": "pt"})
    adapter = train(bases["gpt2"], lora(GPT2, modules_to_save=["wte"])(), tmp_path / "adapter")
    found = load_file(merged(base, adapter, tmp_path / "short") / "model.safetensors")
    wanted = load_file(merged(bases["gpt2"], adapter, tmp_path / "long") / "model.safetensors")
    assert found.keys() == {name.removeprefix("transformer.") for name in wanted}
    assert all(torch.equal(found[name.removeprefix("transformer.")], value) for name, value in wanted.items())


def test_what_does_not_change_keeps_its_bytes(tmp_path: Path, bases: dict[str, Path]) -> None:
    adapter = train(bases["llama"], lora(["q_proj"], use_dora=True)(), tmp_path / "adapter")
    out = merged(bases["llama"], adapter, tmp_path / "merged")
    before, after = (load_file(folder / "model.safetensors") for folder in (bases["llama"], out))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)
    }


def test_lora_and_its_kin_are_merged_without_peft(tmp_path: Path, bases: dict[str, Path]) -> None:
    """Its import takes longer than the merge."""
    adapter = train(bases["llama"], lora(use_dora=True)(), tmp_path / "adapter")
    code = (
        "import sys; from pathlib import Path; from tasks.ml.export import merge\n"
        f"merge.write(Path({str(bases['llama'])!r}), Path({str(adapter)!r}), Path({str(tmp_path)!r}), 'base')\n"
        "assert 'peft' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "keys and values before the prompt"),
        (peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "vectors before the prompt"),
    ],
)
def test_what_is_no_change_of_weights_says_what_it_is(
    tmp_path: Path, bases: dict[str, Path], config: Any, says: str
) -> None:
    adapter = train(bases["tied"], config, tmp_path / "adapter")
    with pytest.raises(Unmergeable, match=says):
        merged(bases["tied"], adapter, tmp_path / "merged")


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        ("dora", lambda found: _without(found, "magnitude"), "no DoRA, or the other way round"),
        ("adalora", lambda found: _without(found, "lora_E"), "missing a half"),
        ("a norm beside", lambda found: _with(found, "input_layernorm", lambda v: v * float("nan")), "is not finite"),
        ("a norm beside", lambda found: _with(found, "input_layernorm", lambda v: v[:4]), r"\(4,\), the base's weight"),
        ("tokens", lambda found: _with(found, "tokens_delta", lambda v: v[:1]), "3 tokens with rows of"),
        ("lora", lambda found: _with(found, "lora_B", lambda v: v * 1e6), "is not finite in torch.float16"),
    ],
)
def test_a_damaged_adapter_is_named(
    tmp_path: Path, bases: dict[str, Path], name: str, harm: Callable[[Any], Any], says: str
) -> None:
    adapter = train(bases["llama"], CASES[name].config(), tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file(harm(load_file(file)), file)
    with pytest.raises(ModelError, match=says):
        merged(bases["llama"], adapter, tmp_path / "merged", "float16")


def _without(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if part not in name}


def _with(
    tensors: dict[str, torch.Tensor], part: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {name: change(value).contiguous() if part in name else value for name, value in tensors.items()}
