"""QLoRA on both quantised bases, with DoRA and LoftQ; what a base that is already quantised takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ModelError, ParamsError
from tasks.core.sections import FetchParams
from tasks.fetch import fetch
from tasks.ml import fused, loading, methods, packing, training
from tasks.ml.checkpoints import Checkpoints
from tests import adapting, tiny_gguf
from tests.tiny import Family

OPTIONS: dict[str, dict[str, Any]] = {
    "nf4": {},
    "int8": {"base": "int8"},
    "dora": {"dora": True, "magnitude": {"after": 0.3, "rate": 0.5}},
    "int8 dora": {"base": "int8", "dora": True},
    "loftq": {"init": "loftq"},
    "int8 loftq dora": {"base": "int8", "init": "loftq", "dora": True},
    "pissa": {"init": "pissa"},
    "int8 olora": {"base": "int8", "init": "olora"},
    "eva": {"init": "eva"},
    "sensitivity": {"allocate": {"by": "sensitivity"}},
    "int8 gradient": {"base": "int8", "allocate": {"by": "gradient"}},
    "patterns": {"rank_pattern": {"mlp.*": 2}, "rslora": True, "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_and_reloads(tiny_base: Path, tmp_path: Path, name: str) -> None:
    wanted = adapting.params("qlora", "bfloat16", **OPTIONS[name])
    start = {key: value.clone() for key, value in adapting.attach(tiny_base, wanted).trainable().items()}
    tuned, result = adapting.fit(tiny_base, tmp_path / "work", wanted)
    assert [key for key, value in tuned.trainable().items() if torch.equal(value, start[key])] == []
    assert result.validations[-1].loss < result.validations[0].loss
    types = {value.dtype for key, value in tuned.trainable().items() if "magnitude" not in key}
    assert types == {torch.bfloat16}
    adapting.assert_reloads(tiny_base, tmp_path, wanted, tuned)


@pytest.mark.parametrize(
    "options", [{"init": "pissa", "dora": True}, {"init": "eva"}, {"allocate": {"by": "sensitivity"}}]
)
def test_a_packed_base_takes_them_too(tmp_path: Path, options: dict[str, Any]) -> None:
    file = tiny_gguf.write(tmp_path / "a.gguf", "llama", types=("Q4_1",))
    fetch(FetchParams(ref=f"gguf:{file}"), out=tmp_path / "base")
    wanted = adapting.params("qlora", "bfloat16", base="packed", **options)
    tuned, result = adapting.fit(tmp_path / "base", tmp_path / "work", wanted)
    assert result.validations[-1].loss < result.validations[0].loss
    adapting.assert_reloads(tmp_path / "base", tmp_path, wanted, tuned)


@pytest.mark.parametrize("family", ["qwen", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"dora": True, "init": "loftq"}])
def test_other_families(
    tiny_bases: dict[Family, Path], tmp_path: Path, family: Family, options: dict[str, Any]
) -> None:
    wanted = adapting.params("qlora", "bfloat16", **options)
    tuned, _ = adapting.fit(tiny_bases[family], tmp_path / "work", wanted)
    adapting.assert_reloads(tiny_bases[family], tmp_path, wanted, tuned)


def test_qdora_fused_is_pefts(tiny_base: Path) -> None:
    wanted = adapting.params("qlora", "bfloat16", dora=True)
    losses: list[torch.Tensor] = []
    for fuse in (False, True):
        model = adapting.attach(tiny_base, wanted).runner.model
        if fuse:
            fused.fuse(model)
        with torch.no_grad():
            losses.append(packing.loss_sum(model, adapting.PROBE))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)


def test_loftq_starts_nearer_to_the_base_than_quantisation_alone(tiny_bases: dict[Family, Path]) -> None:
    base = tiny_bases["qwen"]
    plain = adapting.probe(adapting.base(base, adapting.params("lora", "bfloat16"))).float()
    away = {
        start: (adapting.probe(adapting.attach(base, wanted).runner.model).float() - plain).norm().item()
        for start in ("kaiming", "loftq")
        for wanted in [adapting.params("qlora", "bfloat16", rank=12, init=start)]
    }
    assert away["loftq"] < 0.8 * away["kaiming"]


def test_a_killed_run_ends_alike(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = adapting.params("qlora", "bfloat16", dora=True, init="pissa")
    adapting.assert_a_killed_run_ends_alike(tiny_base, tmp_path, wanted, monkeypatch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"init": "corda"},
            "it decomposes the weights, and these are quantised: that is train.method=lora; known here",
        ),
        ({"base": "fp4"}, "train.options.base"),
        ({"magnitude": {"after": 0.3}}, "magnitude belongs to DoRA: set dora: true"),
        ({"base": "packed", "init": "loftq"}, "a packed base has lost nothing"),
        ({"double": True}, "train.options.double: unknown key; known here: allocate, alpha_pattern, base, bias, dora"),
    ],
)
def test_wrong_options_are_known_before_anything_runs(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        methods.find(adapting.params("qlora", **options))
    assert says in str(caught.value)


@pytest.fixture(scope="module")
def quantised(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder whose weights are already held in NF4."""
    folder = tmp_path_factory.mktemp("quantised")
    for file in tiny_base.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    loading.load(tiny_base, torch.bfloat16, held="nf4").save_pretrained(folder)
    assert json.loads((folder / "config.json").read_bytes())["quantization_config"]["quant_method"] == "bitsandbytes"
    return folder


def test_a_base_that_is_quantised_is_not_quantised_again(quantised: Path) -> None:
    with pytest.raises(ModelError, match=r"already quantised \(bitsandbytes\): train.method=lora trains beside it"):
        adapting.base(quantised, adapting.params("qlora", "bfloat16"))


@pytest.mark.parametrize(("method", "options"), [("lora", {}), ("dora", {}), ("lora", {"init": "olora"})])
def test_lora_trains_beside_a_quantised_base(
    quantised: Path, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    wanted = adapting.params(method, "bfloat16", **options)
    tuned = adapting.attach(quantised, wanted)
    training.fit(tuned, adapting.PACKS, [], wanted, Checkpoints(tmp_path / "work", 1e9))
    adapting.assert_reloads(quantised, tmp_path, wanted, tuned)


def test_corda_beside_a_quantised_base_is_refused(quantised: Path) -> None:
    with pytest.raises(ParamsError, match="init=corda decomposes the weights, and the base holds them in bitsandbytes"):
        adapting.attach(quantised, adapting.params("lora", "bfloat16", init="corda"))


def test_an_int8_product_warns_of_nothing(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """bitsandbytes logs a line a product and step."""
    adapting.probe(adapting.base(tiny_base, adapting.params("qlora", "bfloat16", base="int8")))
    assert not [record for record in caplog.records if "MatMul8bitLt" in record.message]
