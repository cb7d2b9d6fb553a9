"""After a training with quantised weights: into the original base, or into what training saw of it; and the proof of either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tasks.core import manifest, weights
from tasks.core.errors import ModelError
from tasks.core.sections import MergeParams
from tasks.merge import merge
from tasks.ml import export, loading, memory
from tasks.ml.export.recipe import Recipe
from tasks.ml.lora import importance
from tasks.ml.merging import held, proof
from tasks.ml.merging.held import Held
from tasks.ml.merging.proof import Rows
from tasks.ml.tuned import Runner
from tests import tiny
from tests.merging import attached, make, merged, workspace

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace(tmp_path_factory.mktemp("onto"))


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


# ---- what training sees


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_weight_is_what_a_loaded_model_computes_with(
    tmp_path: Path, family: str, kind: str, dtype: torch.dtype
) -> None:
    base = make(tmp_path / "base", family, dtype=torch.bfloat16)
    modules = dict(loading.load(base, dtype, held=kind).named_modules())
    was_held, stored = Held(kind, dtype, loftq=False), tensors(base)
    found = held.layers(base, was_held)
    assert len(found) == {"llama": 14, "gpt2": 8}[family]
    assert not {name for name in found if "head" in name or "wte" in name or "embed" in name}
    for name, turned in found.items():
        wanted = importance.matrix(modules[name.removesuffix(".weight")])
        seen = was_held.seen(stored[name].float(), turned=turned)
        assert torch.equal(seen, wanted.T if turned else wanted)
        assert not torch.equal(seen, stored[name].float())


# ---- the choice


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_better_of_both_bases_is_taken(work: Path, tmp_path: Path, kind: str) -> None:
    adapter = attached(work, tmp_path / "adapter", moved=0.05, method="qlora", options={"base": kind})
    sealed = {
        onto: merged(work, adapter, tmp_path / onto, onto=onto, dtype="float32")
        for onto in ("auto", "original", "trained")
    }
    found = sealed["auto"].facts["candidates"]
    assert found.keys() == {"as trained", "original", "trained"}
    chosen = min(("trained", "original"), key=lambda name: found[name]["loss"])
    assert sealed["auto"].facts["onto"] == chosen
    assert sealed["auto"].files == sealed[chosen].files
    if kind == "nf4":  # in int8 training also rounds activations
        assert found["trained"]["kl"] < 1e-6 < found["original"]["kl"]
        assert found["trained"]["loss"] == pytest.approx(found["as trained"]["loss"], abs=1e-4)
    for onto in ("original", "trained"):
        assert sealed[onto].facts["onto"] == onto and sealed[onto].facts["proof"]["kl"] < 1e-6
        assert sealed[onto].facts["merged_tensors"] == 14
        assert sealed[onto].facts["candidates"][onto] == found[onto]


def test_each_base_holds_the_same_change(work: Path, tmp_path: Path) -> None:
    """Norms, embeddings and head are the base's own in both."""
    adapter = attached(work, tmp_path / "adapter", moved=0.05, method="qlora")
    for onto in ("original", "trained"):
        merged(work, adapter, tmp_path / onto, onto=onto)
    base, original, trained = (
        tensors(folder) for folder in (work / "base", tmp_path / "original", tmp_path / "trained")
    )
    was_held = Held("nf4", torch.float32, loftq=False)
    quantised = held.layers(work / "base", was_held)
    for name, value in base.items():
        seen = was_held.seen(value.float(), turned=False) if name in quantised else value
        torch.testing.assert_close(original[name] - value, trained[name] - seen, rtol=1e-3, atol=1e-6)
        assert torch.equal(original[name], value) == (name not in quantised)


def test_a_base_that_was_held_plain_leaves_nothing_to_choose(work: Path, tmp_path: Path) -> None:
    adapter = attached(work, tmp_path / "adapter", moved=0.05, method="lora")
    auto, trained = (merged(work, adapter, tmp_path / onto, onto=onto) for onto in ("auto", "trained"))
    assert auto.files == trained.files and auto.facts == trained.facts
    assert auto.facts["onto"] == "original" and "candidates" not in auto.facts


def test_without_room_to_measure_the_base_that_training_saw_is_taken(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = attached(work, tmp_path / "adapter", moved=0.05, method="qlora")
    monkeypatch.setattr(memory, "room", lambda: 1000.0)
    facts = merged(work, adapter, tmp_path / "out").facts
    assert facts["onto"] == "trained"
    assert "no room for the model" in facts["proof"]["skipped"] == facts["candidates"]["trained"]["skipped"]


def test_a_base_that_is_itself_quantised_takes_nothing_in(work: Path, tmp_path: Path) -> None:
    with manifest.staged(tmp_path / "base") as folder:
        format, variant = export.find("nf4")
        format.write(work / "base", folder, variant, Recipe())
        manifest.seal(folder, step="fetch", inputs={}, params={}, facts={})
    adapter = attached(work, tmp_path / "adapter", moved=0.05)
    sealed = manifest.read(adapter).model_copy(update={"inputs": {"base": manifest.read(tmp_path / "base").digest}})
    (adapter / manifest.NAME).write_bytes(sealed.to_bytes())
    made = merge(MergeParams(), base=tmp_path / "base", adapter=adapter, chat=work / "chat", out=tmp_path / "merged")
    assert not made.facts["merged"] and "the base itself is quantised (bitsandbytes)" in made.facts["why"]
    assert (tmp_path / "merged" / "adapter" / "adapter_model.safetensors").is_file()


# ---- starts that took something out of the base


@pytest.mark.parametrize("dora", [False, True])
def test_loftq_on_the_original_base_does_not_count_its_start_twice(work: Path, tmp_path: Path, dora: bool) -> None:
    """Untrained it is no change of the original base at all; of what training saw it is the correction."""
    options = {"init": "loftq", "dora": dora}
    adapter = attached(work, tmp_path / "adapter", method="qlora", options=options)
    for onto in ("original", "trained"):
        merged(work, adapter, tmp_path / onto, onto=onto)
    base, original, trained = (
        tensors(folder) for folder in (work / "base", tmp_path / "original", tmp_path / "trained")
    )
    was_held = Held("nf4", torch.float32, loftq=True)
    for name in held.layers(work / "base", was_held):
        seen = was_held.seen(base[name], turned=False)
        lost, left = (base[name] - seen).norm(), (base[name] - trained[name]).norm()
        assert left < 0.9 * lost
        if not dora:
            torch.testing.assert_close(original[name], base[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_loftq_that_has_learned_keeps_that_on_both_bases(work: Path, tmp_path: Path) -> None:
    chosen = {"method": "qlora", "options": {"init": "loftq"}}
    start = attached(work, tmp_path / "start", **chosen)
    adapter = attached(work, tmp_path / "adapter", moved=0.05, **chosen)
    for onto in ("original", "trained"):
        for name, folder in (("start", start), ("adapter", adapter)):
            sealed = merged(work, folder, tmp_path / f"{onto}-{name}", onto=onto, dtype="float32")
            assert sealed.facts["proof"]["kl"] < 1e-6
    for name in tensors(work / "base"):
        original, trained = (
            tensors(tmp_path / f"{onto}-adapter")[name] - tensors(tmp_path / f"{onto}-start")[name]
            for onto in ("original", "trained")
        )
        torch.testing.assert_close(original, trained, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_starts_from_the_base_itself_are_no_change_of_it(work: Path, tmp_path: Path, method: str, init: str) -> None:
    adapter = attached(work, tmp_path / "adapter", method=method, options={"init": init})
    merged(work, adapter, tmp_path / "out", onto="original")
    for name, value in tensors(work / "base").items():
        torch.testing.assert_close(tensors(tmp_path / "out")[name], value, rtol=1e-5, atol=1e-6)


# ---- the proof


def test_equal_work_gives_equal_manifests(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = attached(work, tmp_path / "adapter", moved=0.05, method="lora")
    first = merged(work, adapter, tmp_path / "first", dtype="bfloat16")
    monkeypatch.setenv("TUNELINE_THREADS", "2")
    assert merged(work, adapter, tmp_path / "second", dtype="bfloat16").digest == first.digest
    proved = first.facts["proof"]
    assert proved["dtype"] == "float32" and proved["split"] == "valid" and proved["rows"] <= proof.PROMPTS
    assert 0 < proved["logit_mean"] < proved["logit_max"] and 0 < proved["kl"] < 1e-4 and proved["agreement"] > 0.9


def test_a_merged_model_beyond_the_bound_is_not_made(work: Path, tmp_path: Path) -> None:
    adapter = attached(work, tmp_path / "adapter", moved=0.05, method="lora")
    with pytest.raises(
        ModelError, match=r"nats from base and adapter \(mean over \d+ tokens .* merge.bound allows 1e-12"
    ):
        merged(work, adapter, tmp_path / "out", dtype="bfloat16", bound=1e-12)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


def test_the_default_bound_tells_a_model_without_its_adapter(work: Path, tmp_path: Path) -> None:
    adapter, rows = attached(work, tmp_path / "adapter", moved=0.1, method="lora"), Rows.of(work / "chat")
    base = lambda: Runner.of(loading.load(work / "base", torch.float32))  # noqa: E731
    tuned = lambda: loading.with_adapter(loading.load(work / "base", torch.float32), adapter)  # noqa: E731
    alone, together = (proof.ask(load, rows, tmp_path / name, "") for name, load in (("one", base), ("two", tuned)))
    same, apart = proof.apart(together, together), proof.apart(together, alone)
    assert same is not None and (same.logit_max, same.logit_mean, same.kl, same.agreement) == (0, 0, 0, 1)
    assert apart is not None and apart.kl > MergeParams().bound and apart.agreement < 1


def test_what_is_not_finite_is_far(work: Path, tmp_path: Path) -> None:
    rows = Rows.of(work / "chat")

    def broken() -> Runner:
        model: Any = loading.load(work / "base", torch.float32)
        model.model.norm.weight.data.fill_(float("nan"))
        return Runner.of(model)

    whole = proof.ask(lambda: Runner.of(loading.load(work / "base", torch.float32)), rows, tmp_path / "whole", "")
    apart = proof.apart(whole, proof.ask(broken, rows, tmp_path / "broken", ""))
    assert apart is not None and apart.kl > 1000 and apart.agreement == 0


def test_a_killed_merge_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    """Wherever it is killed, `merged` is absent, and running it again makes it whole."""
    work = workspace(tmp_path / "work", layers=24)
    (work / "params.yaml").write_text(yaml.safe_dump(tiny.params(tmp_path)))
    attached(work, work / "adapter", moved=0.05, method="lora")
    command = [
        sys.executable,
        "-m",
        "tasks.merge",
        "--base",
        "base",
        "--adapter",
        "adapter",
        "--chat",
        "chat",
        "--out",
        "merged",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=work, env=environment, stderr=subprocess.DEVNULL) as process:
        while not list(work.glob("merged.partial/*/*/*.safetensors")):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (work / "merged").exists()
    assert subprocess.run(command, cwd=work, env=environment, capture_output=True).returncode == 0
    assert manifest.verify(work / "merged").facts["merged_tensors"] == 24 * 7
    assert not list(work.glob("merged.*")) and weights.header(work / "merged" / "model.safetensors")
