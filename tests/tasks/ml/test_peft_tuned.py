"""Adapters in PEFT's format that are damaged, lie, or belong to another base: one message each, and no code of theirs runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml import loading
from tests import adapting, tiny

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained adapter of each of these methods."""
    folders = {method: tmp_path_factory.mktemp(method) for method in ("lora", "dora", "adalora")}
    for method, folder in folders.items():
        adapting.attach(tiny_base, adapting.params(method)).save(folder)
    return folders


def says(text: str) -> Harm:
    """The config is this."""
    return lambda folder: (folder / CONFIG).write_text(text)


def claims(**values: object) -> Harm:
    """The config has these values."""
    return lambda folder: (folder / CONFIG).write_text(
        json.dumps({**json.loads((folder / CONFIG).read_bytes()), **values})
    )


def holds(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Harm:
    """The tensors are changed like this."""
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def without(part: str) -> Harm:
    return holds(lambda tensors: {name: value for name, value in tensors.items() if part not in name})


def instead(name: str, value: Tensor) -> Harm:
    return holds(lambda tensors: {**tensors, name: value})


def cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 9)


class Code:
    """What a pickle can do when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({A: Code(folder / "ran")}, folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("method", "harm", "message"),
    [
        ("lora", claims(r=3), "does not fit its base: .*size mismatch"),
        ("lora", instead(A, torch.zeros(4, 31)), "does not fit its base: .*size mismatch"),
        ("lora", claims(target_modules=["q_prj"]), "Target modules .* not found"),
        ("lora", claims(lora_alpha=float("nan")), "NaN is no number to compute with"),
        ("lora", claims(rank_pattern={"q_proj": "x"}), "is damaged or does not fit"),
        ("lora", claims(rank_pattern={"(": 2}), "unterminated subpattern"),
        ("lora", claims(peft_type="NONSENSE"), "NONSENSE"),
        ("lora", says("{"), "is damaged or does not fit"),
        ("lora", instead(A.replace("0", "9"), torch.zeros(4, 32)), "a tensor that its config knows nothing of: .*layers.9"),
        ("lora", without("0.mlp.up_proj.lora_A"), "without a tensor that its config asks for: .*up_proj.lora_A"),
        ("lora", instead(A, torch.full((4, 32), torch.nan)), "up_proj.lora_A.weight is not finite"),
        ("dora", without("magnitude"), "without a tensor that its config asks for: .*magnitude"),
        ("adalora", without("lora_E"), "without a tensor that its config asks for: .*lora_E"),
        ("lora", cut, "file not fully covered"),
        ("lora", pickled, "read from safetensors only"),
    ],
)  # fmt: skip
def test_a_wrong_adapter_is_one_message(
    tiny_base: Path, tmp_path: Path, sound: dict[str, Path], method: str, harm: Harm, message: str
) -> None:
    folder = Path(shutil.copytree(sound[method], tmp_path / "adapter"))
    loading.with_adapter(loading.load(tiny_base, torch.float32), folder)
    harm(folder)
    with pytest.raises(ModelError, match=message):
        loading.with_adapter(loading.load(tiny_base, torch.float32), folder)
    assert not (folder / "ran").exists()


def test_an_adapter_of_another_base_is_one_message(tmp_path: Path, sound: dict[str, Path]) -> None:
    other = loading.load(tiny.make_base(tmp_path / "other", layers=1), torch.float32)
    with pytest.raises(ModelError, match=r"knows nothing of: .*layers\.1"):
        loading.with_adapter(other, sound["lora"])
