"""A fresh LoRA beside a frozen one: trained as if alone, saved as one plain LoRA with the same logits on the original base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams
from tasks.ml import fused, loading, training
from tasks.ml.checkpoints import Checkpoints
from tasks.ml.lora import frozen, plain
from tasks.ml.tuned import Tuned
from tests import adapting, tiny
from tests.tiny import Family

Cases = dict[str, tuple[Family, TrainParams, TrainParams]]
CASES: Cases = {
    "equal": ("llama", adapting.params("lora"), adapting.params("lora")),
    "other ranks and scales": ("qwen", adapting.params("lora", rank=3, rslora=True), adapting.params("lora", rank=5)),
    "patterns": (
        "llama",
        adapting.params("lora", rank_pattern={"q_proj": 2, "down_proj": 6}, alpha_pattern={"v_proj": 7.0}),
        adapting.params("lora", rank_pattern={"k_proj": 3}, rslora=True),
    ),
    "turned": ("gpt2", adapting.params("lora"), adapting.params("lora", rank=2)),
    "fewer layers before": (
        "llama", adapting.params("lora").model_copy(update={"targets": ("q_proj", "v_proj")}), adapting.params("lora"),
    ),
    "starts elsewhere": ("llama", adapting.params("lora", init="pissa"), adapting.params("lora", init="pissa")),
    "loraplus": ("llama", adapting.params("loraplus"), adapting.params("loraplus")),
    "qlora": ("llama", adapting.params("lora"), adapting.params("qlora")),
    "bfloat16": ("llama", adapting.params("lora", "bfloat16"), adapting.params("lora", "bfloat16")),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: tiny.make_base(folder / family, family, dropout=0.0) for family in ("llama", "qwen", "gpt2")}


def before(base: Path, work: Path, wanted: TrainParams) -> Path:
    """The adapter of the version that is continued."""
    tuned, _ = adapting.fit(base, work / "checkpoints", wanted)
    saved = work / "before"
    saved.mkdir(parents=True)
    tuned.save(saved)
    return saved


def joined(base: Path, saved: Path, wanted: TrainParams) -> Tuned:
    return frozen.join(adapting.attach(base, wanted), saved)


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_has_the_logits_of_training(tmp_path: Path, bases: dict[Family, Path], case: str) -> None:
    family, first, second = CASES[case]
    base = bases[family]
    saved = before(base, tmp_path, first)
    assert plain.why_not(saved) is None
    tuned = joined(base, saved, second)
    held: Any = adapting.base(base, second)
    alone = adapting.probe(loading.with_adapter(held, saved).model)
    close = {"rtol": 1e-4, "atol": 1e-5} if held.dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(adapting.probe(tuned.runner.model), alone, **close)  # the fresh half starts at nothing
    training.fit(tuned, adapting.PACKS, adapting.ROWS[:3], second, Checkpoints(tmp_path / "work", 1e9))
    assert not torch.equal(adapting.probe(tuned.runner.model), alone)
    after = adapting.assert_reloads(base, tmp_path, second, tuned, exact=False)
    assert plain.why_not(after) is None
    _assert_concatenated(saved, after)


def _assert_concatenated(saved: Path, after: Path) -> None:
    """Every layer's frozen A stands unchanged before the fresh one."""
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (saved, after))
    for name, value in old.items():
        if ".lora_A." in name:
            assert torch.equal(new[name][: len(value)], value) and len(new[name]) > len(value)
    config = json.loads((after / "adapter_config.json").read_bytes())
    assert config["r"] == max(len(value) for name, value in new.items() if ".lora_A." in name)


def test_only_the_fresh_half_trains(tmp_path: Path, bases: dict[Family, Path]) -> None:
    wanted = adapting.params("lora", rank=3)
    saved = before(bases["llama"], tmp_path, adapting.params("lora"))
    fresh, alone = joined(bases["llama"], saved, wanted), adapting.attach(bases["llama"], wanted)
    sizes = {
        name.replace("parametrizations.weight.original", "weight"): v.shape for name, v in fresh.trainable().items()
    }
    assert sizes == {name: value.shape for name, value in alone.trainable().items()}


def test_fused_forwards_and_a_killed_run_end_alike(tmp_path: Path, bases: dict[Family, Path]) -> None:
    """As the stage trains; a run that starts again from a checkpoint ends with the same bytes."""
    wanted = adapting.params("lora")
    saved = before(bases["llama"], tmp_path, wanted)

    def train(folder: Path, stop: int | None = None) -> Tuned:
        tuned = joined(bases["llama"], saved, wanted)
        fused.fuse(tuned.runner.model)
        if stop:

            def fail(moment: Any) -> Any:
                if moment.step == stop:
                    raise KeyboardInterrupt
                return ()

            with pytest.raises(KeyboardInterrupt):
                halted = replace(tuned, after=fail)
                training.fit(halted, adapting.PACKS, adapting.ROWS[:3], wanted, Checkpoints(folder, 0))
            return train(folder)
        training.fit(tuned, adapting.PACKS, adapting.ROWS[:3], wanted, Checkpoints(folder, 0))
        return tuned

    whole, killed = train(tmp_path / "whole"), train(tmp_path / "killed", stop=6)
    assert all(torch.equal(value, killed.trainable()[name]) for name, value in whole.trainable().items())


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (adapting.params("dora"), r"plain LoRA only, and .* is more: set fetch.keep: merged"),
        (adapting.params("adalora"), r"plain LoRA only, and .* is more"),
        (adapting.params("ia3"), "plain LoRA only, and train.method is another"),
        (adapting.params("lora", dropout=0.1), "would drop from the frozen adapter as well"),
        (
            adapting.params("lora").model_copy(update={"targets": ("q_proj",)}),
            r"train.targets leaves out .*, which the frozen adapter changes",
        ),
    ],
)  # fmt: skip
def test_what_can_t_go_on_beside_it_is_refused(
    tmp_path: Path, bases: dict[Family, Path], wanted: TrainParams, says: str
) -> None:
    saved = before(bases["llama"], tmp_path, adapting.params("lora"))
    with pytest.raises(ParamsError, match=says):
        joined(bases["llama"], saved, wanted)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (adapting.params("dora"), "its config has use_dora"), (adapting.params("adalora"), "kind ADALORA"),
        (adapting.params("lora", modules_to_save=["norm"]), "its config has modules_to_save"),
        (adapting.params("full"), "own format"),
    ],
)  # fmt: skip
def test_an_adapter_that_is_more_than_lora_is_told(
    tmp_path: Path, bases: dict[Family, Path], wanted: TrainParams, says: str
) -> None:
    assert says in (plain.why_not(before(bases["llama"], tmp_path, wanted)) or "")
