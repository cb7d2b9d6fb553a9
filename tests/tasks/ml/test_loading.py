"""A base is loaded whole and finite, or its first bad tensor is named before anything is trained on it."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core import collector
from tasks.core.errors import ModelError
from tasks.ml import loading

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("held", ["plain", "nf4", "int8"])
@pytest.mark.parametrize(("broken", "says"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_a_weight_that_is_no_number_is_named_with_its_place(
    tiny_base: Path, tmp_path: Path, held: str, broken: float, says: str
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors[NAME][3, 2] = broken
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError) as caught:
        loading.load(base, torch.float32, held=held)
    assert f"{NAME} is {says} at [3, 2]: fetch or make the model again" in str(caught.value)


def test_from_then_on_the_collector_looks_as_usual(tiny_base: Path) -> None:
    collector.seldom()
    assert gc.get_threshold() == collector.SELDOM
    loading.load(tiny_base, torch.float32)
    assert gc.get_threshold() == collector.USUAL
