"""Packed rows in every family of models: the loss, the gradients and the dropout of separate rows."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.ml import attention, loading, packing
from tests import runs, tiny
from tests.tiny import FAMILIES, Family

ROWS = [runs.row(1, 9), runs.row(2, 20), runs.row(3, 2), runs.row(4, 14)]


def model(folder: Path, attend: str = attention.NAME) -> Any:
    return loading.load(folder, torch.float32, attention=attend)


def separately(tuned: Any) -> float:
    return sum(packing.loss_sum(tuned, packing.pack([row])).item() for row in ROWS)


def transformers_own(tuned: Any) -> float:
    total = 0.0
    for row in ROWS:
        labels = [token if loss else -100 for token, loss in zip(row.ids, row.loss, strict=True)]
        mean = tuned(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss.item()
        total += mean * sum(row.loss)
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_have_the_loss_of_separate_ones_and_of_transformers(
    tiny_bases: dict[Family, Path], family: Family
) -> None:
    ours, theirs = model(tiny_bases[family]), model(tiny_bases[family], attend="eager")
    with torch.no_grad():
        together = packing.loss_sum(ours, packing.pack(ROWS)).item()
        assert math.isclose(together, separately(ours), rel_tol=1e-6)
        assert math.isclose(together, transformers_own(theirs), rel_tol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_see_their_neighbours_would_be_noticed(tiny_bases: dict[Family, Path], family: Family) -> None:
    """The tests above can fail: one segment over all rows has another loss."""
    ours, pack = model(tiny_bases[family]), packing.pack(ROWS)
    with torch.no_grad():
        found = packing.loss_sum(ours, dataclasses.replace(pack, lengths=(sum(pack.lengths),))).item()
        assert not math.isclose(found, packing.loss_sum(ours, pack).item(), rel_tol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_packed_rows_are_transformers_own(tiny_bases: dict[Family, Path], family: Family) -> None:
    ours, theirs = model(tiny_bases[family]), model(tiny_bases[family], attend="eager")
    packing.loss_sum(ours, packing.pack(ROWS)).backward()
    for row in ROWS:
        labels = [token if loss else -100 for token, loss in zip(row.ids, row.loss, strict=True)]
        mean = theirs(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss
        (mean * sum(row.loss)).backward()
    wanted = dict(theirs.named_parameters())
    found = {name: value.grad for name, value in ours.named_parameters()}
    torch.testing.assert_close(found, {name: wanted[name].grad for name in found}, rtol=1e-4, atol=1e-5)


def test_dropout_of_the_base_is_on_in_training_alone(tiny_bases: dict[Family, Path]) -> None:
    """GPT-2 drops attention weights, too: they go through our attention."""
    tuned, pack = model(tiny_bases["gpt2"]), packing.pack(ROWS)
    losses = [packing.loss_sum(tuned.train(training), pack).item() for training in (False, False, True, True)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    for module in tuned.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert packing.loss_sum(tuned, pack).item() == losses[0]
    for layer in tuned.transformer.h:
        layer.attn.attn_dropout.p = 0.5
    assert packing.loss_sum(tuned, pack).item() != losses[0]


def test_attention_without_a_scale_takes_the_usual_one() -> None:
    query, key, value = torch.randn(3, 1, 2, 7, 4, generator=torch.Generator().manual_seed(0))
    usual, _ = attention.attend(torch.nn.Module(), query, key, value, None, scaling=0.5, lengths=(3, 4))
    found, _ = attention.attend(torch.nn.Module(), query, key, value, None, lengths=(3, 4))
    assert torch.equal(found, usual)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_arguments_give_equal_bases(tmp_path: Path, family: Family) -> None:
    first, second = (tiny.make_base(tmp_path / name, family) for name in "ab")
    files = sorted(file.name for file in first.iterdir())
    assert "model.safetensors" in files
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
