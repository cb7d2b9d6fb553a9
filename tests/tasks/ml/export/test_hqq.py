"""Half-quadratic quantisation in torchao's int4 layout: nearer to the weights than rounding by the range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import ModelError
from tasks.ml import int4, packed_linear
from tests import formats


def errors(folder: Path, wide: Path) -> float:
    """Mean |w - w'|^p over the packed matrices."""
    found, wanted = packed_linear.load(folder, torch.float32).state_dict(), load_file(wide / "model.safetensors")
    names = [name for name in wanted if ".layers." in name and wanted[name].ndim == 2]
    assert len(names) == 14
    return sum((found[name] - wanted[name]).abs().pow(int4.POWER).mean().item() for name in names)


def test_it_loads_back_near_its_model(tmp_path: Path, wide: Path) -> None:
    facts = formats.write("hqq", wide, tmp_path / "hqq")
    assert facts["quantised_layers"] == 14 and 4.5 <= facts["bits_per_weight"] < 5
    judged = formats.judge_anew("hqq", tmp_path / "hqq", wide)
    assert judged.runtime.startswith("transformers") and 0 < judged.near["kl"] < 0.05
    formats.write("torchao-int4", wide, tmp_path / "range")
    assert errors(tmp_path / "hqq", wide) < errors(tmp_path / "range", wide) * 0.99


def test_kept_blocks_and_quantised_models(tmp_path: Path, wide: Path) -> None:
    facts = formats.write("hqq", wide, tmp_path / "kept", keep=frozenset({"model.layers.0"}))
    assert facts["quantised_layers"] == 7
    with pytest.raises(ModelError, match="is already quantised"):
        formats.write("hqq", tmp_path / "kept", tmp_path / "twice")
