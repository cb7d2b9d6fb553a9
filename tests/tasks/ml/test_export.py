"""Merging is PEFT's merge in float32, rounded once; every format loads back and answers as the merged model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import TrainParams
from tasks.ml import export, fidelity, loading, methods, serving
from tasks.ml.export import merge
from tasks.ml.export.recipe import Recipe
from tasks.ml.fidelity import Fidelity
from tasks.ml.serving import Served
from tasks.ml.tuned import Ahead
from tests import runs, tiny


def make_adapter(base: Path, folder: Path, seed: int = 3, **changes: Any) -> Path:
    """An adapter with both halves random, as training leaves it."""
    params = TrainParams(rank=4, **changes)
    torch.manual_seed(seed)
    method, options = methods.find(params)
    tuned = method.attach(loading.load(base, torch.float32), params, options, Ahead(1, ()))
    with torch.no_grad():
        for name, value in tuned.trainable().items():
            if "lora_B" in name:
                value.normal_(std=0.05)
    tuned.save(folder)
    return folder


def served(folder: Path) -> Served:
    return serving.of(loading.load(folder, torch.float32), folder)


def likeness(reference: Served, judged: Served) -> Fidelity:
    return fidelity.compare(reference, judged, [runs.row(number, 24) for number in range(6)], "test")


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def merged(tiny_base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    merge.write(tiny_base, adapter, folder, "base")
    return folder


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.float()


@pytest.mark.parametrize("dtype", ["base", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_merge_is_pefts_own(
    tmp_path: Path, tiny_base: Path, adapter: Path, dtype: str, stored: torch.dtype
) -> None:
    base = tmp_path / "base"
    model: Any = loading.load(tiny_base, stored)
    model.save_pretrained(base)
    wanted = PeftModel.from_pretrained(loading.load(base, torch.float32), str(adapter)).merge_and_unload().state_dict()  # type: ignore[operator]
    (tmp_path / "out").mkdir()
    facts = merge.write(base, adapter, tmp_path / "out", dtype)
    found = load_file(tmp_path / "out" / "model.safetensors")
    kept = stored if dtype == "base" else getattr(torch, dtype)
    assert facts["merged_tensors"] == 14 and len(found) == 20
    for name, value in found.items():
        assert value.dtype == kept
        assert torch.equal(value, wanted[name].to(kept)), name
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["dtype"] == str(kept).removeprefix("torch.")


def test_a_merged_model_answers_as_base_and_adapter(tiny_base: Path, adapter: Path, merged: Path) -> None:
    together = logits(loading.with_adapter(loading.load(tiny_base, torch.float32), adapter).model)
    alone = logits(loading.load(merged, torch.float32))
    assert not torch.allclose(logits(loading.load(tiny_base, torch.float32)), alone, atol=1e-3)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_rounding_that_loses_the_change_is_measured(tmp_path: Path, tiny_base: Path, adapter: Path) -> None:
    small = {name: value * 1e-3 for name, value in load_file(adapter / "adapter_model.safetensors").items()}
    copy = tmp_path / "small"
    copy.mkdir()
    (copy / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    save_file(small, copy / "adapter_model.safetensors")
    results = {}
    for dtype in ("float32", "bfloat16"):
        (tmp_path / dtype).mkdir()
        results[dtype] = merge.write(tiny_base, copy, tmp_path / dtype, dtype)["survival_mean"]
    assert results["float32"] > 0.999 > 0.9 > results["bfloat16"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("other base", "the base's weight"), ("half", "missing a half"), ("nan", "not finite"),
        ("dora", "no DoRA, or the other way"), ("unknown", "does not have"), ("truncated", "whole safetensors|truncated"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, tiny_base: Path, adapter: Path, harm: str, says: str) -> None:
    base, copy = tmp_path / "base", tmp_path / "adapter"
    for source, target in ((tiny_base, base), (adapter, copy)):
        target.mkdir()
        for file in source.iterdir():
            if file.is_file():
                (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(copy / "adapter_model.safetensors")
    name = next(name for name in weights if ".lora_B." in name)
    if harm == "other base":
        weights[name] = torch.cat([weights[name], weights[name]])
    elif harm == "half":
        del weights[name]
    elif harm == "nan":
        weights[name][0, 0] = float("nan")
    elif harm == "unknown":
        weights = {key.replace("layers.1", "layers.7"): value for key, value in weights.items()}
    elif harm == "dora":
        config = json.loads((copy / "adapter_config.json").read_bytes())
        (copy / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    else:
        whole = (base / "model.safetensors").read_bytes()
        (base / "model.safetensors").write_bytes(whole[:-10])
    save_file(weights, copy / "adapter_model.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=says):
        merge.write(base, copy, tmp_path / "out", "base")


def test_nf4_loads_back_smaller_and_close(tmp_path: Path, merged: Path) -> None:
    format, variant = export.find("nf4")
    facts = format.write(merged, tmp_path, variant, Recipe())
    assert facts["quantised_layers"] == 14
    config = json.loads((tmp_path / "config.json").read_bytes())["quantization_config"]
    assert config["bnb_4bit_quant_type"] == "nf4" and config["bnb_4bit_use_double_quant"]
    found = likeness(served(merged), format.load(tmp_path))
    assert found.tokens == 72 and 0 < found.kl < 0.05 and found.agreement < 1
    assert (tmp_path / "chat_template.jinja").read_text() == tiny.TEMPLATE


def test_blocks_that_are_kept_are_not_quantised(tmp_path: Path, merged: Path) -> None:
    format, variant = export.find("nf4")
    facts = format.write(merged, tmp_path, variant, Recipe(keep=frozenset({"model.layers.1"})))
    assert facts["quantised_layers"] == 7
    kept = load_file(tmp_path / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert kept.shape == load_file(merged / "model.safetensors")["model.layers.1.mlp.up_proj.weight"].shape


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nf5", "unknown format 'nf5'; known: .*gguf, .*nf4"), ("gguf-q9", "gguf comes as: gguf-f16"),
        ("merge", "unknown format"), ("gguf", "gguf comes as"),
    ],
)  # fmt: skip
def test_an_unknown_format_lists_the_known_ones(name: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        export.find(name)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("shape", r"mlp.down_proj.weight has the shape \(32, 64\), its config asks for \(32, 96\)"),
        ("missing", r"lacks 2 of its tensors, model.layers.0.mlp.down_proj.weight first"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, harm: str, says: str) -> None:
    """transformers would go on with random weights."""
    base = tiny.make_base(tmp_path / "base")
    if harm == "shape":
        config = json.loads((base / "config.json").read_bytes())
        (base / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    else:
        kept = {name: value for name, value in load_file(base / "model.safetensors").items() if "down_proj" not in name}
        save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=says):
        loading.load(base, torch.float32)
