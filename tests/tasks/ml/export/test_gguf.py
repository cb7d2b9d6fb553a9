"""GGUF files in llama.cpp itself: f16 answers as the model does, and each quantised tensor has the type it should."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader

from tasks.core.errors import ModelError
from tasks.data.rows import Message
from tasks.data.tokens import ChatTokenizer
from tasks.ml import activations, export, fidelity, gguf_base, gguf_quants, llama_cpp, loading, serving
from tasks.ml.export import gguf
from tasks.ml.export.recipe import Recipe
from tests import runs, tiny_gguf
from tests.project import ROOT

ROWS = [runs.row(number, 5 + 60 * number) for number in range(4)]
KEPT = Recipe(keep=frozenset({"model.layers.1"}))
Model = tuple[Path, Path]


@pytest.fixture(scope="module")
def f16(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("f16")
    assert gguf.write(real_base, folder, "f16", Recipe()) == {"outtype": "f16"}
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A file of 256 wide rows, and the folder that it is."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model").mkdir()
    file = tiny_gguf.write(folder / "whole.gguf", types=("BF16",), tied=False)
    gguf_base.dequantise(file, folder / "model")
    return file, folder / "model"


def quantise(model: Model, into: Path, variant: str, recipe: Recipe | None = None) -> tuple[dict[str, Any], Path]:
    file = into / f"{variant}.gguf"
    return gguf_quants.write(model[1], model[0], file, variant, recipe or Recipe()), file


def kinds(file: Path) -> dict[str, Kind]:
    return {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}


def test_f16_answers_the_sample_prompts_as_transformers_does(real_base: Path, f16: Path) -> None:
    tokenizer = ChatTokenizer(real_base)
    rows = [json.loads(line) for line in (ROOT / "data/sample/day1.jsonl").read_text().splitlines()[:4]]
    prompts = [tokenizer.prompt([Message.model_validate(message) for message in row["messages"]]) for row in rows]
    plain = serving.of(loading.load(real_base, torch.float32), real_base)
    served = export.find("gguf-f16")[0].load(f16)
    wanted = plain.generate(prompts, 24, tokenizer.ends)
    assert served.generate(prompts, 24, tokenizer.ends) == wanted
    assert [served.generate([prompt], 24, tokenizer.ends)[0] for prompt in prompts] == wanted, "alone as together"
    early = frozenset({wanted[0][5]})
    cut = served.generate(prompts, 24, early)
    assert cut == plain.generate(prompts, 24, early) and len(cut[0]) == 6 < max(map(len, cut)), "each ends by itself"
    near = fidelity.compare(plain, served, ROWS, "rows")
    assert near.kl < 1e-3 and near.agreement > 0.98 and near.tokens == sum(sum(row.loss) for row in ROWS)


def test_f16_holds_the_weights_and_the_template(real_base: Path, f16: Path, tmp_path: Path) -> None:
    gguf_base.dequantise(f16 / gguf.FILE, tmp_path)
    found, wanted = (loading.load(folder, torch.float32).state_dict() for folder in (tmp_path, real_base))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=8e-3, atol=1e-6)
    assert (tmp_path / "chat_template.jinja").read_bytes() == (real_base / "chat_template.jinja").read_bytes()


@pytest.mark.parametrize(
    ("variant", "counts", "most"),
    [
        ("q8_0", {"F32": 5, "Q8_0": 16}, 0.002), ("q6_k", {"F32": 5, "Q6_K": 16}, 0.01),
        ("q5_k_m", {"F32": 5, "Q5_K": 13, "Q6_K": 3}, 0.03), ("q4_k_m", {"F32": 5, "Q4_K": 13, "Q6_K": 3}, 0.1),
        ("q4_k_s", {"F32": 5, "Q4_K": 13, "Q5_K": 2, "Q6_K": 1}, 0.1), ("q4_0", {"F32": 5, "Q4_0": 15, "Q6_K": 1}, 0.1),
        ("q3_k_m", {"F32": 5, "Q3_K": 10, "Q4_K": 3, "Q5_K": 2, "Q6_K": 1}, 0.4),
    ],
)  # fmt: skip
def test_tensors_have_llama_cpps_types_and_it_reads_them(
    model: Model, tmp_path: Path, variant: str, counts: dict[str, int], most: float
) -> None:
    facts, file = quantise(model, tmp_path, variant)
    assert facts["types"] == counts == dict(Counter(kind.name for kind in kinds(file).values()))
    assert kinds(file)["output.weight"].name == ("Q8_0" if variant == "q8_0" else "Q6_K")
    plain = serving.of(loading.load(model[1], torch.float32), model[1])
    near = fidelity.compare(plain, llama_cpp.serve(file), ROWS, "rows")
    assert 0 < near.kl < most
    assert file.stat().st_size < model[0].stat().st_size


def test_what_is_kept_has_eight_bits(model: Model, tmp_path: Path) -> None:
    _, plain = quantise(model, tmp_path, "q4_k_m")
    _, kept = quantise(model, tmp_path, "q4_k_s", KEPT)
    found = kinds(kept)
    matrices = [name for name, kind in found.items() if name.startswith("blk.1.") and kind is not Kind.F32]
    assert len(matrices) == 7 and {found[name] for name in matrices} == {Kind.Q8_0}
    assert found["blk.0.attn_q.weight"] is Kind.Q4_K and found["token_embd.weight"] is Kind.Q4_K
    _, ends = quantise(model, tmp_path, "q4_0", Recipe(ends=True))
    assert {kinds(ends)[name] for name in ("token_embd.weight", "output.weight")} == {Kind.Q8_0}
    assert kinds(plain)["token_embd.weight"] is Kind.Q4_K


def test_importance_lowers_the_error_where_the_inputs_are(model: Model, tmp_path: Path) -> None:
    """The weighted error of a matrix, by the weights that it was quantised with."""
    recipe = Recipe(calibration=ROWS, importance=True)
    facts, weighted = quantise(model, tmp_path, "q4_k_m", recipe)
    assert facts["weighted_tensors"] == 15, "all matrices but the embeddings"
    (tmp_path / "plain").mkdir()
    _, plain = quantise(model, tmp_path / "plain", "q4_k_m")
    squares = activations.mean_squares(model[1], ROWS)["model.layers.0.mlp.gate_proj"].numpy()
    name = "blk.0.ffn_gate.weight"
    errors = [(squares * (values(file, name) - values(model[0], name)) ** 2).sum() for file in (weighted, plain)]
    assert errors[0] < errors[1]


def values(file: Path, name: str) -> np.ndarray:
    from gguf.quants import dequantize

    (tensor,) = (tensor for tensor in GGUFReader(file).tensors if tensor.name == name)
    return dequantize(tensor.data, tensor.tensor_type)


def test_mean_squares_are_those_of_the_inputs(tiny_base: Path) -> None:
    found = activations.mean_squares(tiny_base, ROWS[:2])
    bare: Any = loading.load(tiny_base, loading.compute_dtype("auto"))
    seen: list[torch.Tensor] = []
    bare.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0]))
    with torch.inference_mode():
        for row in ROWS[:2]:
            bare(input_ids=torch.tensor([row.ids]))
    wanted = torch.cat(seen).float().square().mean(0)
    torch.testing.assert_close(found["model.layers.1.mlp.down_proj"], wanted)


def test_rows_that_no_block_fits_fall_back_and_say_so(real_base: Path, tmp_path: Path) -> None:
    """576 is no multiple of 256: llama.cpp's stand-ins take over, counted in the facts."""
    facts = gguf.write(real_base, tmp_path, "q4_k_m", Recipe())
    assert facts["types"] == {"F32": 61, "Q4_K": 16, "Q5_0": 166, "Q6_K": 14, "Q8_0": 15}
    assert [file.name for file in tmp_path.iterdir()] == [gguf.FILE], "the whole file is gone"


@pytest.mark.parametrize("harm", ["cut", "empty", "no file"])
def test_a_damaged_file_is_one_error(model: Model, tmp_path: Path, harm: str) -> None:
    file = tmp_path / "broken.gguf"
    if harm != "no file":
        file.write_bytes(model[0].read_bytes()[: 5000 if harm == "cut" else 0])
    with pytest.raises(ModelError, match=r"llama.cpp can't load .*broken.gguf"):
        llama_cpp.serve(file)


def test_a_model_that_the_converter_does_not_know_is_one_error(tiny_base: Path, tmp_path: Path) -> None:
    """Tokenizers are known by their digest, and a made-up one is not."""
    with pytest.raises(ModelError, match="the GGUF converter failed"):
        gguf.write(tiny_base, tmp_path, "f16", Recipe())
