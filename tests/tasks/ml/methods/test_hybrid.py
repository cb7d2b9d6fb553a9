"""A prompt learner with LoRA: both learn, and PEFT's own models, loaded one after the other, are what was saved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tasks.core import manifest
from tasks.core.errors import ModelError, ParamsError
from tasks.core.params import Params
from tasks.core.sections import TrainParams
from tasks.core.standing import Standing
from tasks.data.chatset import Segment
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.merge import merge
from tasks.ml import attention, fused, loading, methods, packing, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.lora import frozen
from tasks.ml.tuned import Ahead, Tuned
from tasks.prepare import prepare
from tasks.quantize import quantize
from tasks.train import train
from tests import method_cases, runs, tiny
from tests.tiny import FAMILIES, Family

Bases = dict[Family, Path]
LEARNERS = ("prefix", "prompt", "p_tuning")


ROWS = [runs.row(number, 8 + number % 9) for number in range(8)]
HELD_OUT = [runs.row(number, 9 + number % 5) for number in range(20, 24)]


def asked(method: str, **options: Any) -> TrainParams:
    return method_cases.PARAMS.model_copy(update={"method": method, "options": {"tokens": 5, "lora": True, **options}})


def attach(base: Path, params: TrainParams, dtype: torch.dtype = torch.float32) -> Tuned:
    method, options = methods.find(params)
    torch.manual_seed(params.launch.seed)
    model = loading.load(base, dtype, attention=attention.NAME).requires_grad_(False)
    return method.attach(model, params, options, Ahead(4, [[row] for row in ROWS]))


def fit(tuned: Tuned, folder: Path, params: TrainParams) -> None:
    fused.fuse(tuned.runner.model)
    training.fit(tuned, [[row] for row in ROWS], HELD_OUT, params, Checkpoints(folder, 1e9))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", LEARNERS)
def test_both_learn_and_pefts_own_models_are_what_was_saved(
    tiny_bases: Bases, tmp_path: Path, method: str, family: Family
) -> None:
    params = asked(method)
    tuned = attach(tiny_bases[family], params)
    before, start = {name: value.clone() for name, value in tuned.trainable().items()}, loss(tuned, ROWS)
    kinds = {"lora" if ".lora_" in name else name.partition(".")[0] for name in before}
    assert kinds == {"lora", "prompt_encoder"}
    fit(tuned, tmp_path / "checkpoints", params)
    assert not [name for name, value in tuned.trainable().items() if torch.equal(before[name], value)]
    assert loss(tuned, ROWS) < start
    (tmp_path / "adapter").mkdir()
    tuned.save(tmp_path / "adapter")
    found = {str(file.relative_to(tmp_path / "adapter")) for file in (tmp_path / "adapter").rglob("*.*")}
    both = {
        f"{part}/{name}" for part in ("lora", "prompt") for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    assert found == {"tuneline_adapter.json", *both}
    again = loading.with_adapter(loading.load(tiny_bases[family], torch.float32), tmp_path / "adapter")
    wanted = loss(tuned, HELD_OUT)
    assert math.isclose(training.mean_loss(again, HELD_OUT), wanted, rel_tol=1e-6)
    for merged in (True, False):
        theirs = pefts(tiny_bases[family], tmp_path / "adapter", merged=merged)
        assert math.isclose(pefts_loss(theirs, HELD_OUT), wanted, rel_tol=1e-5)
    with pytest.raises(ValueError, match="adapter_config.json"):  # no half passes for the whole
        PeftModel.from_pretrained(loading.load(tiny_bases[family], torch.float32), str(tmp_path / "adapter"))


def loss(tuned: Tuned, rows: list[Segment]) -> float:
    return training.mean_loss(tuned.runner, rows)


def pefts(base: Path, folder: Path, *, merged: bool) -> Any:
    """LoRA loaded by PEFT, merged into its base or left in it, and the prompt loaded on that."""
    inside: Any = PeftModel.from_pretrained(loading.load(base, torch.float32), str(folder / "lora"))
    under = inside.merge_and_unload() if merged else inside.get_base_model()
    return PeftModel.from_pretrained(under, str(folder / "prompt")).eval()


def pefts_loss(model: Any, rows: list[Segment]) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor([row.ids])).logits[0, -len(row.ids) :]
            losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row.ids[1:]), reduction="none")
            total, count = total + losses[torch.tensor(row.loss[1:])].sum().item(), count + sum(row.loss)
    return total / count


@pytest.mark.parametrize("method", LEARNERS)
def test_rows_that_begin_alike_share_their_beginning(tiny_bases: Bases, method: str) -> None:
    rows = [Segment(r.id, [*range(40, 52), *r.ids], [False] * 12 + r.loss) for r in ROWS]
    tuned = attach(tiny_bases["qwen"], asked(method))
    _move(tuned)
    with torch.no_grad():
        together = tuned.runner.loss_sum(packing.pack(rows, share=True), 0.0).item()
        apart = sum(tuned.runner.loss_sum(packing.pack([row]), 0.0).item() for row in rows)
    assert math.isclose(together, apart, rel_tol=1e-6)


def _move(tuned: Tuned) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn_like(value), alpha=0.05)


@pytest.mark.parametrize("method", LEARNERS)
def test_on_a_bfloat16_base_what_comes_back_is_what_was_saved(tiny_bases: Bases, tmp_path: Path, method: str) -> None:
    tuned = attach(tiny_bases["qwen"], asked(method), torch.bfloat16)
    _move(tuned)
    tuned.save(tmp_path)
    model = loading.load(tiny_bases["qwen"], torch.bfloat16, attention=attention.NAME)
    assert training.mean_loss(loading.with_adapter(model, tmp_path), HELD_OUT) == loss(tuned, HELD_OUT)


@pytest.mark.parametrize("method", LEARNERS)
def test_a_killed_run_ends_with_the_same_bytes(
    tiny_bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    params, base = asked(method), tiny_bases["llama"]
    whole = attach(base, params)
    fit(whole, tmp_path / "whole", params)
    calls = runs.kill(monkeypatch, 3)
    with pytest.raises(runs.Killed):
        interrupted(attach(base, params), tmp_path / "killed", params)
    resumed = attach(base, params)
    interrupted(resumed, tmp_path / "killed", params)
    assert len(calls) == 5
    found = runs.files(resumed, tmp_path / "resumed")
    assert len(found) == 5 and found == runs.files(whole, tmp_path / "undisturbed")


def interrupted(tuned: Tuned, folder: Path, params: TrainParams) -> None:
    """With a checkpoint after every step."""
    fused.fuse(tuned.runner.model)
    training.fit(tuned, [[row] for row in ROWS], HELD_OUT, params, Checkpoints(folder, 0))


def test_a_part_that_is_missing_or_of_another_base_is_named(tiny_bases: Bases, tmp_path: Path) -> None:
    attach(tiny_bases["llama"], asked("prompt")).save(tmp_path)
    with pytest.raises(ModelError, match="made for another base: its architecture is 'LlamaForCausalLM'"):
        loading.with_adapter(loading.load(tiny_bases["qwen"], torch.float32), tmp_path)
    (tmp_path / "prompt" / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="has no adapter in prompt/"):
        loading.with_adapter(loading.load(tiny_bases["llama"], torch.float32), tmp_path)


def test_what_the_lora_is_told_is_checked_as_lora_checks_it(tiny_bases: Bases) -> None:
    with pytest.raises(ParamsError, match="train.targets: no linear layer is called 'q_prj'; did you mean 'q_proj'"):
        attach(tiny_bases["llama"], asked("prompt").model_copy(update={"targets": ("q_prj",)}))
    with pytest.raises(ParamsError, match="train.rank=99 is above the smaller side"):
        attach(tiny_bases["llama"], asked("prefix").model_copy(update={"rank": 99}))


def test_no_frozen_lora_goes_with_it(tiny_bases: Bases, tmp_path: Path) -> None:
    attach(tiny_bases["llama"], method_cases.params("lora")).save(tmp_path)
    with pytest.raises(ParamsError, match="fetch.keep=frozen goes with plain LoRA only"):
        frozen.join(attach(tiny_bases["llama"], asked("prompt")), tmp_path)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_it_goes_through_the_line_beside_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, method: str
) -> None:
    monkeypatch.setenv("TUNELINE_WORK", str(tmp_path / "work"))
    options = {"method": method, "options": {"tokens": 5, "lora": True}, "launch": {"dtype": "auto"}}
    params = Params.model_validate(tiny.params(tiny_base, train=options))
    chat, base, adapter = tmp_path / "chat", tmp_path / "base", tmp_path / "adapter"
    fetch(params.fetch, out=base)
    tiny.make_raw(tmp_path / "raw")
    prepare(params.prepare, raw=tmp_path / "raw", base=base, out=chat, report=tmp_path / "data-report")
    trained = train(params.train, chat=chat, base=base, out=adapter, report=tmp_path / "report")
    assert trained.facts["virtual_tokens"] == 5
    merged = merge(params.merge, base=base, adapter=adapter, chat=chat, out=tmp_path / "merged")
    assert Standing.of(merged).note == (
        f"not merged, the adapter stands beside its base: of {method} with LoRA, one part stands before the prompt, "
        "which no weight of the base can hold"
    )
    assert {name.removeprefix("adapter/") for name in merged.files if name.startswith("adapter/")} == set(trained.files)
    quantize(params.quantize, format="nf4", merged=tmp_path / "merged", chat=chat, out=tmp_path / "nf4")
    assert set(merged.files) & {f"adapter/{name}" for name in trained.files} <= set(
        manifest.verify(tmp_path / "nf4").files
    )
    losses: dict[str, float] = {}
    for target in ("base", "adapter", "merged", "nf4"):
        model, out = tmp_path / target, tmp_path / f"judged-{target}"
        evaluate(params.evaluate, target=target, chat=chat, base=base, model=model, suites=tiny.SUITES, out=out)
        losses[target] = json.loads((out / "metrics.json").read_bytes())["loss"]
    assert losses["merged"] == losses["adapter"] < losses["base"]
    assert losses["nf4"] != losses["base"]
