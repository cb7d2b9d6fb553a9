"""Finished LoRAs are read as they are, or it is said which of them is no plain LoRA of the base, and why."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import ParamsError
from tasks.ml import experts, loading
from tasks.ml.experts import Expert
from tests import method_cases
from tests.tiny import Family

Bases = dict[Family, Path]


def read(base: Path, folders: dict[str, str]) -> list[Expert]:
    return experts.read_all(loading.load(base, torch.float32), folders)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_they_come_in_the_order_of_their_names_with_pefts_scales(tiny_bases: Bases, family: Family) -> None:
    folders = method_cases.experts(tiny_bases[family])
    found = read(tiny_bases[family], dict(reversed(folders.items())))
    assert [expert.name for expert in found] == ["billing", "tech"]
    assert [{pair.scale for pair in expert.pairs.values()} for expert in found] == [{8 / 4}, {8 / 3}]
    layers = experts.by_layer(loading.load(tiny_bases[family], torch.float32), found)
    assert [sorted(pairs) for pairs in layers.values()] == [[0], *[[0, 1]] * (len(layers) - 1)]


def test_written_and_read_again_they_are_the_same(tiny_bases: Bases, tmp_path: Path) -> None:
    folders = method_cases.experts(tiny_bases["gpt2"])
    patterned = tmp_path / "patterned"
    shutil.copytree(folders["tech"], patterned)
    _config(patterned, alpha_pattern={"c_fc": 5.0}, use_rslora=True)
    first = read(tiny_bases["gpt2"], {**folders, "tech": str(patterned)})
    model = loading.load(tiny_bases["gpt2"], torch.float32)
    for expert in first:
        experts.write(model, expert, tmp_path / "written" / expert.name)
    second = read(tiny_bases["gpt2"], {expert.name: str(tmp_path / "written" / expert.name) for expert in first})
    for before, after in zip(first, second, strict=True):
        assert {name: pair.scale for name, pair in before.pairs.items()} == {
            name: p.scale for name, p in after.pairs.items()
        }
        assert all(
            pair.a.equal(after.pairs[name].a) and pair.b.equal(after.pairs[name].b)
            for name, pair in before.pairs.items()
        )
    assert len({pair.scale for pair in first[1].pairs.values()}) == 2


def _without(folder: Path) -> None:
    shutil.rmtree(folder)


def _no_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[")


def _dora(folder: Path) -> None:
    _config(folder, use_dora=True)


def _ia3(folder: Path) -> None:
    _config(folder, peft_type="IA3")


def _cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def _half(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, file)


def _infinite(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = math.inf
    save_file(tensors, file)


def _wider(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(
        {name: torch.cat([value, value], 1) if "lora_A" in name else value for name, value in load_file(file).items()},
        file,
    )


def _other_rank(folder: Path) -> None:
    _config(folder, r=9)


def _no_pattern(folder: Path) -> None:
    _config(folder, alpha_pattern={"(": 3})


def _config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without, "has no adapter_config.json: give the folder of an adapter that train.method=lora made"),
        (_no_json, "adapter_config.json is damaged"),
        (_dora, "is no plain LoRA: its config has use_dora; only plain ones can be mixed"),
        (_ia3, "is no plain LoRA: it is of PEFT's kind IA3"),
        (_cut, "adapter_model.safetensors is damaged"),
        (_half, "is not a plain pair of A and B"),
        (_infinite, "is not finite: train the adapter again"),
        (_other_rank, "has rank 3, its config says 9"),
        (_no_pattern, "a pattern is no regular expression"),
        (_wider, "was made for another base: its A and B of "),
    ],
)
def test_what_is_no_plain_lora_of_this_base_is_refused(
    tiny_bases: Bases, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    folder = tmp_path / "tech"
    shutil.copytree(method_cases.experts(tiny_bases["llama"])["tech"], folder)
    damage(folder)
    with pytest.raises(ParamsError) as caught:
        read(tiny_bases["llama"], {**method_cases.experts(tiny_bases["llama"]), "tech": str(folder)})
    assert f"train.options.adapters.tech: {folder}" in str(caught.value) and says in str(caught.value)


def test_an_adapter_of_another_architecture_is_refused(tiny_bases: Bases) -> None:
    with pytest.raises(ParamsError, match="made for another base: LlamaForCausalLM has no linear layer 'transformer"):
        read(tiny_bases["llama"], method_cases.experts(tiny_bases["gpt2"]))
