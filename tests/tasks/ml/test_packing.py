"""NEFTune's noise (Jain et al. 2023, arXiv 2310.05914): uniform, at most alpha / sqrt(L d) in a row of L tokens, while training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tasks.ml import packing
from tests import runs

ALPHA = 5.0


def test_the_noise_is_the_papers(tiny_base: Path) -> None:
    model = runs.model(tiny_base)
    lengths = (9, 40, 150)
    pack = packing.pack([runs.row(number, length) for number, length in enumerate(lengths)])
    model.eval()
    plain = packing.embed(model, pack)
    assert torch.equal(packing.embed(model, pack, ALPHA), plain), "only while training"
    model.train()
    assert torch.equal(packing.embed(model, pack), plain)
    torch.manual_seed(7)
    drawn = torch.stack([packing.embed(model, pack, ALPHA) - plain for _ in range(200)])
    for noise, length in zip(drawn.split(lengths, dim=2), lengths, strict=True):
        bound = ALPHA / math.sqrt(length * plain.shape[-1])
        assert noise.abs().max().item() == pytest.approx(bound, rel=1e-2) and noise.abs().max() <= bound * (1 + 1e-4)
        assert noise.std().item() == pytest.approx(bound / math.sqrt(3), rel=2e-2), "uniform"
        assert abs(noise.mean().item()) < bound / 50
