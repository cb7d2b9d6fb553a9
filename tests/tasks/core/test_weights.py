"""Safetensors headers put in order: the same tensors, the same descriptions, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tasks.core import weights


def test_metadata_comes_in_order_and_nothing_else_changes(tmp_path: Path) -> None:
    tensors = {"b.weight": torch.arange(6.0), "a.weight": torch.ones(2, 2)}
    said = {f"name {number}": 'ünï "quoted" \\ text' for number in range(12)}
    files = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for file in files:
        save_file(tensors, file, metadata=said)
    assert len({file.read_bytes() for file in files}) > 1, "safetensors orders them itself: sort_metadata can go"
    for file in files:
        weights.sort_metadata(file)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as stored:
        assert stored.metadata() == said
    assert all(load_file(files[0])[name].equal(value) for name, value in tensors.items())


def test_a_file_without_metadata_stays_as_it_is(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()
    weights.sort_metadata(tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before
