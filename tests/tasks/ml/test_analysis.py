"""Analysis of saved adapters of several kinds, against the model that PEFT makes of them, taken apart in float64."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml import analysis, loading
from tests import method_cases, tiny
from tests.adapting import attach


def adapter(base: Path, folder: Path, method: str, **changes: Any) -> Path:
    """A saved adapter that is far from its start, without a training."""
    tuned = attach(base, method_cases.params(method).model_copy(update=changes))
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn(value.shape, generator=noise) * 0.05)
    folder.mkdir()
    tuned.save(folder)
    return folder


def dense(base: Path, saved: Path) -> Mapping[str, tuple[Tensor, Tensor]]:
    """(W, dW) of what changed, by the parameter's name."""
    before = {name: value.double() for name, value in loading.load(base, torch.float32).state_dict().items()}
    tuned: Any = PeftModel.from_pretrained(loading.load(base, torch.float32), str(saved))
    after = {name: value.double() for name, value in tuned.merge_and_unload().state_dict().items()}
    return {name: (before[name], after[name] - before[name]) for name in before if not before[name].equal(after[name])}


@pytest.mark.parametrize(
    ("family", "method", "rank"),
    [
        ("gpt2", "lora", 4),
        ("gpt2", "dora", None),
        ("llama", "adalora", None),
        ("llama", "loha", None),
        ("qwen", "vera", 4),
    ],
)
def test_any_change_of_matrices_is_taken_apart(
    tiny_bases: dict[tiny.Family, Path], tmp_path: Path, family: tiny.Family, method: str, rank: int | None
) -> None:
    base = tiny_bases[family]
    saved = adapter(base, tmp_path / "adapter", method)
    found = {each.name: each for each in analysis.moved(analysis.changes(base, saved))}
    wanted = {name.removeprefix("transformer."): pair for name, pair in dense(base, saved).items()}
    assert len(found) >= 8 and {name.removeprefix("transformer.") for name in found} == wanted.keys()
    for name, each in found.items():
        weight, change = wanted[name.removeprefix("transformer.")]
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        assert each.directions is not None and (rank is None or method != "lora" or each.directions == rank)
        u, s, v = u[:, : each.directions], s[: each.directions], v[: each.directions]
        own = (u.mT @ weight @ v.mT).norm().item()
        assert each.change == pytest.approx(change.norm().item(), rel=1e-4)
        assert each.relative == pytest.approx((change.norm() / weight.norm()).item(), rel=1e-4)
        assert each.effective_rank == pytest.approx(torch.special.entr(s / s.sum()).sum().exp().item(), rel=1e-2)
        assert each.own == pytest.approx(own, rel=2e-2)
        assert each.amplification == pytest.approx(s.norm().item() / own, rel=2e-2)


def test_a_turned_base_is_compared_by_what_reads_its_inputs(
    tiny_bases: dict[tiny.Family, Path], tmp_path: Path
) -> None:
    """GPT-2's matrices are stored as (inputs, outputs): `mlp.c_proj` reads 64 numbers, `mlp.c_fc` 32."""
    base = tiny_bases["gpt2"]
    found = analysis.changes(base, adapter(base, tmp_path / "adapter", "lora"))
    chances = {layer.name: layer.chance[0] for layer in analysis.compare(found, found).layers}
    assert {chance for name, chance in chances.items() if name.endswith("mlp.c_proj.weight")} == {1 / 64}
    assert {chance for name, chance in chances.items() if name.endswith("mlp.c_fc.weight")} == {1 / 32}


def test_biases_move_without_directions(tiny_bases: dict[tiny.Family, Path], tmp_path: Path) -> None:
    base = tiny_bases["qwen"]
    found = list(analysis.moved(analysis.changes(base, adapter(base, tmp_path / "adapter", "bitfit"))))
    assert len(found) == 6
    assert all(each.directions is None and each.amplification is None and each.change > 0 for each in found)
    same = analysis.changes(base, tmp_path / "adapter")
    with pytest.raises(ModelError, match="changed no matrix in common"):
        analysis.compare(same, same)


def test_a_layer_that_lost_all_its_ranks_did_not_move(tiny_base: Path, tmp_path: Path) -> None:
    saved = adapter(tiny_base, tmp_path / "adapter", "lora")
    file = saved / "adapter_model.safetensors"
    halves = load_file(file)
    halves["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].zero_()
    save_file(halves, file)
    found = {each.name: each for each in analysis.moved(analysis.changes(tiny_base, saved))}
    still = found["model.layers.0.self_attn.q_proj.weight"]
    assert (still.change, still.effective_rank, still.directions) == (0, None, None)


def test_an_adapter_of_another_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    saved = adapter(tiny_base, tmp_path / "adapter", "lora")
    other = tiny.make_base(tmp_path / "other", layers=1)
    with pytest.raises(ModelError, match=r"changes model\.layers\.1\..* which the base .* does not have: wrong base"):
        analysis.changes(other, saved)
    config = json.loads((saved / "adapter_config.json").read_bytes())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "LOHA"}))
    with pytest.raises(ModelError, match="only LoRA and its kin can be compared then"):
        analysis.changes(tiny_base, saved, elsewhere=True)
