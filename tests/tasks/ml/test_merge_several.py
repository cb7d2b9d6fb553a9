"""Several adapters of one base as one: what PEFT makes of them on the whole model, pinned, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tasks.core import manifest
from tasks.core.errors import ParamsError
from tasks.core.sections import MergeParams
from tasks.ml import loading
from tasks.ml.export import merge
from tasks.ml.merging import several
from tests.merging import GPT2, attached, make, merged, train, workspace

COMBINE = get_args(MergeParams.model_fields["combine"].annotation)
WEIGHTS = (0.7, 0.4)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two plain LoRAs whose layers overlap and whose scales differ, `first` and `second`, and others beside them."""
    folder = workspace(tmp_path_factory.mktemp("several"))
    attached(folder, folder / "first", moved=0.05, targets=["q_proj", "down_proj"], alpha=6)
    attached(folder, folder / "second", moved=0.05, targets=["q_proj", "v_proj"], alpha=12, seed=1)
    attached(folder, folder / "dora", moved=0.05, method="dora")
    attached(folder, folder / "nf4", moved=0.05, method="qlora")
    attached(folder, folder / "loftq", moved=0.05, method="qlora", options={"init": "loftq"})
    return folder


def combined(work: Path, out: Path, others: list[Path], **params: Any) -> manifest.Manifest:
    also = [{"adapter": str(folder), "weight": WEIGHTS[1]} for folder in others]
    return merged(work, work / "first", out, also=also, weight=WEIGHTS[0], **params)


def by_peft(base: Path, adapters: list[Path], params: MergeParams) -> Any:
    """On the whole model in float32."""
    tuned: Any = PeftModel.from_pretrained(loading.load(base, torch.float32), str(adapters[0]), adapter_name="a")
    tuned.load_adapter(str(adapters[1]), "b")
    torch.manual_seed(params.seed)
    tuned.add_weighted_adapter(["a", "b"], list(WEIGHTS), "c", combination_type=params.combine, density=params.density)
    tuned.set_adapter("c")
    return tuned.merge_and_unload().state_dict()


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_is_what_peft_makes_of_them_on_the_whole_model(tmp_path: Path, kind: str, combine: str) -> None:
    import peft

    base = make(tmp_path / "base", kind)
    targets = [["q_proj", "down_proj"], ["q_proj", "v_proj"]] if kind == "llama" else [GPT2, GPT2[:2]]
    adapters = [
        train(
            base,
            peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM"),
            tmp_path / str(alpha),
        )
        for alpha, names in zip((6, 12), targets, strict=True)
    ]
    params = MergeParams.model_validate({
        "combine": combine, "weight": WEIGHTS[0], "also": [{"adapter": str(adapters[1]), "weight": WEIGHTS[1]}],
    })  # fmt: skip
    several.combine(params, base, adapters[0], tmp_path / "combined")
    (tmp_path / "merged").mkdir()
    merge.write(base, tmp_path / "combined", tmp_path / "merged", "base")
    wanted, before = by_peft(base, adapters, params), load_file(base / "model.safetensors")
    changed = 0
    for name, value in load_file(tmp_path / "merged" / "model.safetensors").items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=name)
        changed += not torch.equal(value, before[name])
    assert changed == 6


def test_other_ranks_and_scales_add_up(tmp_path: Path) -> None:
    """rsLoRA and patterns of ranks, whose scales PEFT itself loses: the exact ways are checked against arithmetic."""
    import peft

    base = make(tmp_path / "base", "llama")
    configs = {
        "one": {"r": 4, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
        "two": {"r": 8, "lora_alpha": 4, "alpha_pattern": {"v_proj": 16}},
    }
    for name, config in configs.items():
        lora = peft.LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **config)
        train(base, lora, tmp_path / name)
    before, changes = load_file(base / "model.safetensors"), []
    for name in configs:
        (tmp_path / f"{name}-merged").mkdir()
        merge.write(base, tmp_path / name, tmp_path / f"{name}-merged", "base")
        after = load_file(tmp_path / f"{name}-merged" / "model.safetensors")
        changes.append({key: after[key] - value for key, value in before.items()})
    also = [{"adapter": str(tmp_path / "two"), "weight": WEIGHTS[1]}]
    params = MergeParams.model_validate({"combine": "cat", "weight": WEIGHTS[0], "also": also})
    several.combine(params, base, tmp_path / "one", tmp_path / "combined")
    (tmp_path / "merged").mkdir()
    merge.write(base, tmp_path / "combined", tmp_path / "merged", "base")
    for key, value in load_file(tmp_path / "merged" / "model.safetensors").items():
        wanted = before[key] + sum(weight * change[key] for weight, change in zip(WEIGHTS, changes, strict=True))
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6, msg=key)


def test_the_others_are_pinned_by_their_digests(work: Path, tmp_path: Path) -> None:
    sealed = combined(work, tmp_path / "out", [work / "second"])
    assert sealed.inputs["also-1"] == manifest.read(work / "second").digest
    assert sealed.facts["merged_tensors"] == 6 and sealed.facts["proof"]["kl"] < 1e-6
    alone = merged(work, work / "first", tmp_path / "alone")
    assert alone.facts["merged_tensors"] == 4 and "also-1" not in alone.inputs


def test_dropping_follows_the_seed(work: Path, tmp_path: Path) -> None:
    made = {
        name: combined(work, tmp_path / name, [work / "second"], combine="dare_linear", seed=seed).files
        for name, seed in (("one", 1), ("again", 1), ("two", 2))
    }
    assert made["one"] == made["again"] != made["two"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("first/..", "has no manifest.json, so it was never finished"), ("base", "is no adapter but what fetch made"),
        ("dora", r"is no plain LoRA \(its config has use_dora\)"), ("nf4", "the base held in nf4, this run's own in plain"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(work: Path, tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        combined(work, tmp_path / "out", [work / name])
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_another_base_or_start_is_refused(work: Path, tmp_path: Path) -> None:
    other = workspace(tmp_path / "other", seed=1)
    attached(other, other / "adapter", moved=0.05)
    with pytest.raises(ParamsError, match="was trained on another base"):
        combined(work, tmp_path / "out", [other / "adapter"])
    with pytest.raises(ParamsError, match="is no absolute path"):
        combined(work, tmp_path / "out", [Path("models/adapter")])
    also = [{"adapter": str(work / "loftq")}]
    with pytest.raises(ParamsError, match="began from LoftQ"):
        merged(work, work / "nf4", tmp_path / "out", also=also)


def test_what_peft_refuses_is_said_in_its_words(work: Path, tmp_path: Path) -> None:
    attached(work, tmp_path / "wide", moved=0.05, rank=8)
    with pytest.raises(
        ParamsError, match="merge.combine=linear: PEFT refuses: All adapters must have the same r value"
    ):
        combined(work, tmp_path / "out", [tmp_path / "wide"], combine="linear")
    assert combined(work, tmp_path / "cat", [tmp_path / "wide"], combine="cat").facts["proof"]["kl"] < 1e-6
