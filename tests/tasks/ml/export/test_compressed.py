"""GPTQ and AWQ by llm-compressor, in its own environment: what it writes, our transformers reads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tasks.core.errors import ModelError, ParamsError
from tasks.ml import compressed, export
from tests import formats, runs, tiny

METHODS = ("gptq", "awq")
ROWS = [runs.row(number, 48) for number in range(16)]


@pytest.fixture(scope="module", params=["gptq", pytest.param("awq", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, wide: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("formats") / request.param
    facts = formats.write(request.param, wide, folder, calibration=ROWS)
    assert facts["group"] == 64 and facts["quantised_layers"] == 14 and facts["left_layers"] == []
    assert 4.2 < facts["bits_per_weight"] < 4.5
    return request.param, folder


def test_it_loads_back_near_its_model(made: tuple[str, Path], wide: Path) -> None:
    name, folder = made
    config = json.loads((folder / "config.json").read_bytes())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    assert (folder / "chat_template.jinja").read_text() == tiny.TEMPLATE
    judged = formats.judge_anew(name, folder, wide)
    assert judged.runtime.startswith("transformers") and judged.lengths == [6, 6]
    assert 0 < judged.near["kl"] < 0.05, "a matrix of zeros costs 0.5"


def test_kept_blocks_and_narrow_matrices_stay_as_they_are(tmp_path: Path) -> None:
    """Rows of 48 stay in 16 bits; rows of 96 take groups of 32."""
    formats.find("gptq")
    base = tiny.make_base(tmp_path / "base", "llama", hidden=48)
    facts = formats.write("gptq", base, tmp_path / "gptq", calibration=ROWS, keep=frozenset({"model.layers.1"}))
    assert (facts["group"], facts["quantised_layers"], facts["kept_layers"]) == (32, 1, ["model.layers.1"])
    assert len(facts["left_layers"]) == 6 and all(name.startswith("model.layers.0.") for name in facts["left_layers"])
    name = "model.layers.1.mlp.down_proj.weight"
    found, wanted = (load_file(folder / "model.safetensors")[name] for folder in (tmp_path / "gptq", base))
    assert found.equal(wanted.to(found.dtype))


def test_a_quantised_model_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is already quantised"):
        formats.write(*made, tmp_path / "twice", calibration=ROWS)


def test_it_needs_rows_to_learn_from(tmp_path: Path, wide: Path) -> None:
    with pytest.raises(ModelError, match=r"there are none: set quantize\.calibration"):
        formats.write("gptq", wide, tmp_path / "gptq")


def test_what_it_says_when_it_fails_is_told(tmp_path: Path, wide: Path) -> None:
    formats.find("gptq")
    shutil.copytree(wide, tmp_path / "base")
    config = json.loads((wide / "config.json").read_bytes())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"model_type": "nobody-knows"}))
    with pytest.raises(ModelError, match="llm-compressor failed: .*nobody-knows"):
        formats.write("gptq", tmp_path / "base", tmp_path / "gptq", calibration=ROWS)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_not_there_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TUNELINE_FORMATS", str(tmp_path))
    with pytest.raises(ParamsError, match=f"{name} is unavailable: (make formats|pip install 'tuneline.compressed.')"):
        export.find(name)
    monkeypatch.delenv("TUNELINE_FORMATS")
    assert compressed.python().parents[3] == Path(sys.prefix).parent
