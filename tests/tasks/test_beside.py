"""An adapter that can't be merged goes through the line beside its base: carried, judged, or its format not made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from tasks.core import manifest
from tasks.core.errors import ModelError
from tasks.core.params import Params
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.merge import merge
from tasks.ml import evaluation, export, loading, serving
from tasks.ml.serving import Served
from tasks.ml.tuned import Runner
from tasks.prepare import prepare
from tasks.quantize import quantize
from tests import tiny

WHY = "prefix tuning trains keys and values before the prompt, which no weight of the base can hold"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads of a busy machine spin for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Base, training set, a prefix and what the steps after it make, as a workspace has them."""
    folder = tmp_path_factory.mktemp("beside")
    params = Params.model_validate(tiny.params(tiny_base))
    fetch(params.fetch, out=folder / "base")
    tiny.make_raw(folder / "raw")
    prepare(params.prepare, raw=folder / "raw", base=folder / "base", out=folder / "chat", report=folder / "card")
    make_prefix(folder / "base", folder / "adapter")
    merge(params.merge, base=folder / "base", adapter=folder / "adapter", chat=folder / "chat", out=folder / "merged")
    for format in ("nf4", "int8", "gguf-f16"):
        quantize(params.quantize, format=format, merged=folder / "merged", chat=folder / "chat", out=folder / format)
    return folder


def make_prefix(base: Path, out: Path, trained_on: str | None = None) -> None:
    torch.manual_seed(0)
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    tuned: Any = peft.get_peft_model(loading.load(base, torch.float32), config)
    with torch.no_grad():
        for value in tuned.parameters():
            if value.requires_grad:
                value.normal_()
    inputs = {"base": trained_on or manifest.read(base).digest}
    facts = {"method": "prefix", "dtype": "float32", "base": "plain"}
    with manifest.staged(out) as folder:
        tuned.save_pretrained(folder)
        manifest.seal(folder, step="train", inputs=inputs, params={}, facts=facts)


def answers(served: Served) -> list[int]:
    return served.generate([list(range(3, 13))], 12, frozenset({0}))[0]


def test_the_base_stays_and_the_adapter_stands_beside_it(made: Path) -> None:
    sealed = manifest.verify(made / "merged")
    assert (sealed.facts["merged"], sealed.facts["why"]) == (False, WHY)
    base, adapter = manifest.read(made / "base").files, manifest.read(made / "adapter").files
    assert sealed.files == {**base, **{f"adapter/{name}": entry for name, entry in adapter.items()}}
    weights = "model.safetensors"
    assert (made / "merged" / weights).samefile(made / "base" / weights), "no second copy of the weights"


def test_whoever_loads_it_puts_the_adapter_on(made: Path) -> None:
    base = serving.by_transformers(Runner.of(loading.load(made / "base", torch.float32)))
    beside = answers(evaluation.load("adapter", made / "base", made / "adapter"))
    assert answers(base) != beside
    assert answers(evaluation.load("merged", made / "base", made / "merged")) == beside
    for format in ("nf4", "int8"):
        alone = serving.by_transformers(Runner.of(loading.load(made / format, torch.float32)))
        assert answers(export.find(format)[0].load(made / format)) != answers(alone)


def test_a_format_carries_it_or_is_not_made(made: Path) -> None:
    for format in ("nf4", "int8"):
        carried = manifest.verify(made / format)
        assert (carried.facts["made"], carried.facts["merged"]) == (True, False)
        assert {name for name in carried.files if name.startswith("adapter/")} == {
            f"adapter/{name}" for name in manifest.read(made / "adapter").files
        }
    refused = manifest.verify(made / "gguf-f16")
    assert (refused.facts["made"], refused.files) == (False, {})
    assert refused.facts["why"] == f"gguf-f16 has no room for an adapter beside the weights, and {WHY}"


@pytest.mark.parametrize("target", ["merged", "nf4", "gguf-f16"])
def test_what_is_judged_says_how_it_stands(made: Path, tmp_path: Path, tiny_base: Path, target: str) -> None:
    params = Params.model_validate(tiny.params(tiny_base)).evaluate
    out = tmp_path / target
    sealed = evaluate(
        params, target=target, chat=made / "chat", base=made / "base", model=made / target, suites=tiny.SUITES, out=out
    )  # fmt: skip
    summary = json.loads((out / "metrics.json").read_bytes())
    rows = (out / "rows.jsonl").read_text().count("\n")
    assert sealed.facts["made"] == summary["made"] == (target != "gguf-f16")
    assert summary["note"].startswith("not made: " if target == "gguf-f16" else "not merged, the adapter stands beside")
    assert summary["note"].endswith(WHY)
    tested = manifest.read(made / "chat").facts["rows"]["test"]
    assert rows == summary["rows"] == (0 if target == "gguf-f16" else tested)


def test_an_adapter_of_another_base_is_refused(made: Path, tmp_path: Path, tiny_base: Path) -> None:
    make_prefix(made / "base", tmp_path / "adapter", trained_on="0" * 64)
    params = Params.model_validate(tiny.params(tiny_base)).merge
    with pytest.raises(ModelError, match="was trained on another base"):
        merge(params, base=made / "base", adapter=tmp_path / "adapter", chat=made / "chat", out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
