"""Merging over architectures, methods, types, tied and untied heads, one file and several: always PEFT's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from tasks.core import weights
from tasks.core.sections import TrainParams
from tasks.ml import loading, methods
from tasks.ml.export import merge
from tasks.ml.tuned import Ahead
from tests.merging import GPT2, beside, logits, make, train

KINDS = ("llama", "qwen", "gpt2", "moe")
STORED = (torch.float32, torch.bfloat16, torch.float16)
EPSILON = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""The most that a unit in the last place can be of a value; in float32 twice that, for sums in another order."""
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def targets(kind: str) -> list[str]:
    return {"gpt2": GPT2, "moe": ["q_proj", "v_proj", "o_proj"]}.get(kind, ["q_proj", "v_proj", "down_proj"])


def lora(kind: str, **changes: Any) -> Any:
    return peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets(kind), task_type="CAUSAL_LM", **changes)


METHODS: dict[str, Callable[[str], Any]] = {
    "lora": lora,
    "rslora and its head": lambda kind: lora(kind, use_rslora=True, modules_to_save=["lm_head"]),
    "dora": lambda kind: lora(kind, use_dora=True),
    "adalora": lambda kind: peft.AdaLoraConfig(
        init_r=6, target_r=4, total_step=10, target_modules=targets(kind), task_type="CAUSAL_LM"
    ),
    "ia3": lambda kind: peft.IA3Config(target_modules=targets(kind), feedforward_modules=[], task_type="CAUSAL_LM"),
}


def cases() -> Iterator[Any]:
    """Every combination; the quick ones see each of them at least once with each architecture and method."""
    for place, (kind, name) in enumerate(product(KINDS, METHODS)):
        for number, (stored, tie, sharded) in enumerate(product(STORED, (True, False), (True, False))):
            quick = number in (place * 7 % 12, (place * 7 + 5) % 12)
            label = (
                f"{kind}-{name}-{str(stored)[6:]}-{'tied' if tie else 'untied'}-{'shards' if sharded else 'one file'}"
            )
            yield pytest.param(kind, name, stored, tie, sharded, id=label, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize(("kind", "method", "stored", "tie", "sharded"), cases())
def test_merged_weights_are_pefts(
    tmp_path: Path, kind: str, method: str, stored: torch.dtype, tie: bool, sharded: bool
) -> None:
    limit = {"max_shard_size": "20KB"} if sharded else {}
    base = make(tmp_path / "base", kind, tie=tie, dtype=stored, **limit)
    assert (len(list(base.glob("*.safetensors"))) > 1) == sharded
    adapter = train(base, METHODS[method](kind), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    merge.write(base, adapter, tmp_path / "merged", "base")
    wanted = of_model(beside(base, adapter).merge_and_unload())
    found = of_files(tmp_path / "merged")
    assert found.keys() >= of_files(base).keys() and set(wanted) - set(found) <= {"lm_head.weight"}
    for name, value in found.items():
        assert value.dtype == stored, name
        torch.testing.assert_close(
            value.float(), wanted[name].to(stored).float(), rtol=EPSILON[stored], atol=2.0**-22, msg=name
        )
    assert_layout(base, tmp_path / "merged", same=set(found) == set(of_files(base)))


def of_model(model: Any) -> dict[str, Tensor]:
    """By the names that files have."""
    state = revert_weight_conversion(model, dict(model.state_dict()))
    return {name: value.detach() for name, value in state.items()}


def of_files(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def assert_layout(base: Path, merged: Path, *, same: bool) -> None:
    """The same files, each with the same header, but for a head that is a tensor of its own now."""
    files = sorted(file.name for file in base.glob("*.safetensors"))
    assert files == sorted(file.name for file in merged.glob("*.safetensors"))
    if same:
        assert all(weights.head(base / name) == weights.head(merged / name) for name in files)
    if (index := merged / weights.INDEX).exists():
        listed = json.loads(index.read_bytes())["weight_map"]
        assert listed == {name: file for file in files for name in weights.header(merged / file)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_type_changes_every_tensor_and_no_value(tmp_path: Path, kind: str, dtype: str) -> None:
    base = make(tmp_path / "base", kind, dtype=torch.bfloat16, max_shard_size="20KB")
    adapter = train(base, METHODS["lora"](kind), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    merge.write(base, adapter, tmp_path / "merged", dtype)
    wanted, kept = of_model(beside(base, adapter).merge_and_unload()), getattr(torch, dtype)
    for name, value in of_files(tmp_path / "merged").items():
        assert value.dtype == kept
        torch.testing.assert_close(
            value.float(), wanted[name].to(kept).float(), rtol=EPSILON[kept], atol=2.0**-22, msg=name
        )
    assert json.loads((tmp_path / "merged" / "config.json").read_bytes())["dtype"] == dtype


def test_experts_are_merged(tmp_path: Path) -> None:
    """PEFT trains them as one parameter, the files have a tensor an expert."""
    base = make(tmp_path / "base", "moe", max_shard_size="20KB")
    adapter = train(base, lora("moe", target_parameters=EXPERTS), tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    facts = merge.write(base, adapter, tmp_path / "merged", "base")
    assert facts["merged_tensors"] == 2 * (3 + 4 * 3)
    wanted, found = logits(beside(base, adapter)), logits(loading.load(tmp_path / "merged", torch.float32))
    assert (wanted - logits(loading.load(base, torch.float32))).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_experts_that_were_trained_whole_are_merged(tmp_path: Path) -> None:
    base = make(tmp_path / "base", "moe")
    params = TrainParams(method="full", rank=4)
    method, options = methods.find(params)
    tuned = method.attach(loading.load(base, torch.float32), params, options, Ahead(1, ()))
    torch.manual_seed(1)
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn_like(value) * 0.05)
    for name in ("adapter", "merged"):
        (tmp_path / name).mkdir()
    tuned.save(tmp_path / "adapter")
    merge.write(base, tmp_path / "adapter", tmp_path / "merged", "base")
    found = logits(loading.load(tmp_path / "merged", torch.float32))
    torch.testing.assert_close(found, logits(tuned.runner.model), rtol=1e-5, atol=1e-6)
