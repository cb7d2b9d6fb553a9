"""ONNX: onnxruntime answers as the model does, a portion at a time, and packs what the recipe does not keep."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ModelError
from tasks.data.chatset import Segment
from tasks.ml import loading, serving
from tests import formats, tiny

FAR = {"onnx-int8": 1e-3, "onnx-int4": 0.1}
"""Mean KL, in nats, that the precision may cost on the wide base; a matrix of zeros costs 0.5."""


@pytest.fixture(scope="module")
def made(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "onnx-fp32"
    facts = formats.write("onnx-fp32", wide, folder)
    assert facts == {"quantised_layers": 0, "left_layers": [], "kept_layers": [], "head_bits": 32}
    return folder


def test_float32_answers_as_the_model_does(made: Path, wide: Path) -> None:
    judged = formats.judge_anew("onnx-fp32", made, wide)
    assert judged.runtime.startswith("onnxruntime 1.") and judged.same and judged.lengths == [6, 6]
    assert judged.near["kl"] < 1e-6 and judged.near["agreement"] == 1
    assert (made / "chat_template.jinja").read_text() == tiny.TEMPLATE


def test_long_rows_come_in_chunks_of_128_targets(made: Path, wide: Path) -> None:
    """Labelled in patches, so that portions of tokens and chunks of targets do not fall together."""
    ids = [place * 13 % 300 + 3 for place in range(420)]
    row = Segment("long", ids, [place % 50 > 11 for place in range(420)])
    found = list(formats.find("onnx-fp32")[0].load(made).logits(row))
    wanted = list(serving.of(loading.load(wide, torch.float32), wide).logits(row))
    assert [len(chunk) for chunk in found] == [len(chunk) for chunk in wanted] and len(found) == 3
    torch.testing.assert_close(torch.cat(found), torch.cat(wanted), rtol=1e-3, atol=1e-4)
    nothing = Segment("none", ids[:5], [True, *[False] * 4])
    assert list(formats.find("onnx-fp32")[0].load(made).logits(nothing)) == []


def test_an_answer_ends_with_the_token_that_ends_it(made: Path) -> None:
    served = formats.find("onnx-fp32")[0].load(made)
    whole = served.generate(formats.PROMPTS, 8, frozenset())[0]
    end = whole[2]
    assert served.generate(formats.PROMPTS, 8, frozenset({end}))[0] == whole[: whole.index(end) + 1]


def test_the_vendors_own_loop_generates_the_same(made: Path) -> None:
    ours = formats.find("onnx-fp32")[0].load(made).generate(formats.PROMPTS[:1], 6, frozenset())
    genai: Any = importlib.import_module("onnxruntime_genai")
    model = genai.Model(str(made))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(formats.PROMPTS[0]) + 6, do_sample=False)
    loop = genai.Generator(model, params)
    loop.append_tokens(formats.PROMPTS[0])
    while not loop.is_done():
        loop.generate_next_token()
    assert (
        list(loop.get_sequence(0))[len(formats.PROMPTS[0]) :] == ours[0][: loop.token_count() - len(formats.PROMPTS[0])]
    )


def test_ends_and_blocks_that_are_kept(tmp_path: Path, wide: Path) -> None:
    facts = formats.write("onnx-int4", wide, tmp_path / "int4", ends=True, keep=frozenset({"model.layers.1"}))
    assert (facts["head_bits"], facts["kept_layers"], facts["left_layers"]) == (32, ["model.layers.1"], [])
    assert 0 < facts["quantised_layers"] <= 7
    judged = formats.judge("onnx-int4", tmp_path / "int4", wide)
    assert 0 < judged.near["kl"] < FAR["onnx-int4"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("tie", [True, False])
def test_packed_decoders_stay_near(tmp_path: Path, name: str, *, tie: bool) -> None:
    base = tiny.make_base(tmp_path / "base", "qwen3", hidden=64, tie=tie)
    facts = formats.write(name, base, tmp_path / name)
    bits = int(name[-1])
    assert facts["head_bits"] == (32 if tie and bits == 8 else bits) and facts["left_layers"] == []
    judged = formats.judge(name, tmp_path / name, base)
    assert 0 < judged.near["kl"] < FAR[name]


def test_heads_that_the_runtime_would_refuse(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="attention heads are 8 wide"):
        formats.write("onnx-int4", tiny_base, tmp_path / "int4")


def test_a_quantised_model_is_refused(tmp_path: Path, wide: Path) -> None:
    shutil.copytree(wide, tmp_path / "quantised")
    config = json.loads((wide / "config.json").read_bytes())
    (tmp_path / "quantised" / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "x"}})
    )
    with pytest.raises(ModelError, match="is already quantised"):
        formats.write("onnx-fp32", tmp_path / "quantised", tmp_path / "out")


@pytest.mark.slow
def test_an_architecture_that_the_builder_does_not_know(tmp_path: Path) -> None:
    base = tiny.make_base(tmp_path / "gpt2", "gpt2", hidden=64)
    with pytest.raises(ModelError, match="the ONNX model builder failed: NotImplementedError"):
        formats.write("onnx-fp32", base, tmp_path / "out")


@pytest.mark.parametrize("harm", ["truncated", "gone", "no weights"])
def test_damaged_files_are_named(tmp_path: Path, made: Path, harm: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(made, folder)
    if harm == "truncated":
        (folder / "model.onnx").write_bytes((made / "model.onnx").read_bytes()[:1000])
    else:
        (folder / ("model.onnx" if harm == "gone" else "model.onnx.data")).unlink()
    with pytest.raises(ModelError, match="can't be run by onnxruntime"):
        formats.find("onnx-fp32")[0].load(folder)
