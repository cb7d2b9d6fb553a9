"""int4 and int8 by torchao: the files hold its plain layouts, and a processor multiplies them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tasks.core.errors import ModelError
from tasks.ml import fidelity, int4, loading, packed_linear, serving
from tests import formats, runs, tiny

BITS = {"torchao-int4": (4.5, 5), "torchao-int8": (8, 9)}
FAR = {"torchao-int4": 0.05, "torchao-int8": 1e-3}
"""Mean KL, in nats, that the precision may cost on the wide base; a matrix of zeros costs 0.5."""


@pytest.fixture(scope="module", params=BITS)
def made(request: pytest.FixtureRequest, wide: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("formats") / request.param
    facts = formats.write(request.param, wide, folder)
    least, most = BITS[request.param]
    assert facts["quantised_layers"] == 14 and facts["left_layers"] == [] and least <= facts["bits_per_weight"] < most
    return request.param, folder


def test_it_loads_back_near_its_model(made: tuple[str, Path], wide: Path) -> None:
    name, folder = made
    judged = formats.judge_anew(name, folder, wide)
    assert judged.runtime.startswith("transformers") and judged.lengths == [6, 6]
    assert 0 < judged.near["kl"] < FAR[name]


def test_the_files_are_torchaos_own(made: tuple[str, Path]) -> None:
    name, folder = made
    config = json.loads((folder / "config.json").read_bytes())["quantization_config"]
    assert config["quant_method"] == "torchao" and (folder / "chat_template.jinja").read_text() == tiny.TEMPLATE
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        kind = json.loads(tensors.metadata()["model.layers.0.mlp.down_proj.weight"])["_type"]
    assert kind == {"torchao-int4": "Int4Tensor", "torchao-int8": "Int8Tensor"}[name]
    assert sorted(file.suffix for file in folder.iterdir()) == [".jinja", *[".json"] * 4, ".safetensors"]


def test_equal_work_gives_equal_bytes(made: tuple[str, Path], wide: Path, tmp_path: Path) -> None:
    name, folder = made
    formats.write(name, wide, tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_float32_computes_with_the_same_weights(made: tuple[str, Path], wide: Path) -> None:
    """There int4 is unpacked at loading: torch's product of it is many times slower than the plain one."""
    name, folder = made
    model = serving.of(loading.load(wide, torch.float32), wide)
    rows = [runs.row(number, 40) for number in range(4)]
    both = [serving.of(packed_linear.load(folder, dtype), folder) for dtype in (torch.float32, torch.bfloat16)]
    assert fidelity.compare(*both, rows, "dtypes").kl < fidelity.compare(model, both[0], rows, "rows").kl < FAR[name]


def test_kept_blocks_stay_as_they_are(made: tuple[str, Path], wide: Path, tmp_path: Path) -> None:
    name, folder = made
    facts = formats.write(name, wide, tmp_path / "kept", keep=frozenset({"model.layers.1"}))
    assert facts["quantised_layers"] == 7 and facts["kept_layers"] == ["model.layers.1"]
    kept, wanted = (load_file(each / "model.safetensors") for each in (tmp_path / "kept", wide))
    matrix = "model.layers.1.mlp.down_proj.weight"
    assert kept[matrix].equal(wanted[matrix].to(kept[matrix].dtype))
    whole, part = (formats.judge(name, each, wide).near["kl"] for each in (folder, tmp_path / "kept"))
    assert 0 < part < whole


def test_a_quantised_model_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is already quantised"):
        formats.write(*made, tmp_path / "twice")


def test_widths_that_no_group_divides_are_recorded(tmp_path: Path) -> None:
    """Rows of 48 stay in 16 bits; rows of 96 take groups of 32."""
    base = tiny.make_base(tmp_path / "base", "qwen", hidden=48)
    facts = formats.write("torchao-int4", base, tmp_path / "int4")
    assert facts["quantised_layers"] == 2 and len(facts["left_layers"]) == 12
    assert not any(name.endswith("down_proj") for name in facts["left_layers"])
    assert 0 < formats.judge("torchao-int4", tmp_path / "int4", base).near["kl"] < FAR["torchao-int4"]


def test_what_has_nothing_to_pack_is_refused(tmp_path: Path, tiny_bases: dict[tiny.Family, Path]) -> None:
    """GPT-2 has no linear layers but the head: its matrices are transposed ones."""
    with pytest.raises(ModelError, match=r"no matrix of its decoder blocks was quantised \(8 found\)"):
        formats.write("torchao-int4", tiny_bases["gpt2"], tmp_path / "int4")


def test_what_is_packed_is_what_the_file_gives_back(made: tuple[str, Path], wide: Path) -> None:
    name, folder = made
    matrix = "model.layers.0.mlp.down_proj.weight"
    weight = load_file(wide / "model.safetensors")[matrix].bfloat16()
    found: Any = packed_linear.load(folder, torch.float32).get_parameter(matrix)
    if name == "torchao-int4":
        assert found.equal(int4.by_range(weight, 64, torch.bfloat16).values())
    else:
        half_a_step = weight.float().abs().amax(1, keepdim=True) / 127 / 2
        assert ((found.dequantize(torch.float32) - weight.float()).abs() <= half_a_step * 1.05).all()
