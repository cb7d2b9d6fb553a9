"""int8 by bitsandbytes: loaded back by transformers it is nearly the model it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import ModelError
from tasks.ml import loading
from tests import formats, tiny


def test_it_loads_back_near_its_model(tmp_path: Path, wide: Path) -> None:
    folder = tmp_path / "int8"
    facts = formats.write("int8", wide, folder)
    assert facts["quantised_layers"] == 14 and facts["left_layers"] == [] and 8 < facts["bits_per_weight"] < 8.7
    assert json.loads((folder / "config.json").read_bytes())["quantization_config"]["load_in_8bit"]
    assert (folder / "chat_template.jinja").read_text() == tiny.TEMPLATE
    judged = formats.judge_anew("int8", folder, wide)
    assert judged.runtime.startswith("transformers") and judged.lengths == [6, 6]
    assert 0 < judged.near["kl"] < 1e-3 and judged.near["agreement"] > 0.9


def test_transposed_matrices(tmp_path: Path, tiny_bases: dict[tiny.Family, Path]) -> None:
    """GPT-2's."""
    facts = formats.write("int8", tiny_bases["gpt2"], tmp_path / "int8")
    assert facts["quantised_layers"] == 8
    assert 0 < formats.judge("int8", tmp_path / "int8", tiny_bases["gpt2"]).near["kl"] < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_the_dtype_that_is_asked(
    tmp_path: Path, tiny_bases: dict[tiny.Family, Path], dtype: torch.dtype
) -> None:
    formats.write("int8", tiny_bases["gpt2"], tmp_path / "int8")
    model = loading.load(tmp_path / "int8", dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype, torch.int8}
    assert model(input_ids=torch.arange(3, 9)[None]).logits.isfinite().all()


def test_kept_blocks_stay_as_they_are(tmp_path: Path, wide: Path) -> None:
    facts = formats.write("int8", wide, tmp_path / "int8", keep=frozenset({"model.layers.1"}))
    assert facts["quantised_layers"] == 7 and facts["kept_layers"] == ["model.layers.1"]
    name = "model.layers.1.mlp.down_proj.weight"
    found, wanted = (load_file(folder / "model.safetensors")[name] for folder in (tmp_path / "int8", wide))
    assert found.equal(wanted.to(found.dtype))


def test_a_quantised_model_is_refused(tmp_path: Path, wide: Path) -> None:
    formats.write("int8", wide, tmp_path / "once")
    with pytest.raises(ModelError, match="is already quantised"):
        formats.write("int8", tmp_path / "once", tmp_path / "twice")
