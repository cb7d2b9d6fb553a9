"""Attention within segments is attention of each segment alone; what is shared is seen by all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.ml import attention


def states(tokens: int, heads: int = 4, key_heads: int = 2, extra: int = 0) -> list[Tensor]:
    torch.manual_seed(tokens)
    shapes = ((1, heads, tokens, 8), (1, key_heads, tokens + extra, 8), (1, key_heads, tokens + extra, 8))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def reference(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], shared: int) -> Tensor:
    """One masked product over everything."""
    tokens, extra = q.shape[2], k.shape[2] - q.shape[2]
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    common = torch.cat([torch.ones(extra, dtype=torch.bool), torch.arange(tokens) < shared])
    mine = torch.cat([torch.zeros(tokens, extra, dtype=torch.bool), segment[:, None] == segment[None]], 1)
    causal = torch.ones(tokens, tokens + extra, dtype=torch.bool).tril(extra)
    groups = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(groups, 1).transpose(2, 3) * 8**-0.5
    weights = scores.masked_fill(~(causal & (mine | common)), float("-inf")).softmax(-1)
    return (weights @ v.repeat_interleave(groups, 1)).transpose(1, 2)


def compare(lengths: tuple[int, ...], shared: int, extra: int, heads: int = 4) -> None:
    leaves = states(sum(lengths), heads=heads, extra=extra)
    module: Any = torch.nn.Module()
    found, _ = attention.attend(module, *leaves, None, lengths=lengths, shared=shared)
    wanted = reference(*leaves, lengths, shared)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    d_out = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves, d_out), torch.autograd.grad(wanted, leaves, d_out), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.booleans(), st.integers(0, 3), st.sampled_from([2, 4]))
def test_segments_see_themselves_and_what_is_shared(lengths: list[int], share: bool, extra: int, heads: int) -> None:
    compare(tuple(lengths), lengths[0] if share else 0, extra, heads)


@pytest.mark.parametrize("kept", [0, 512])
def test_blocks_and_recomputed_probabilities_change_nothing(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(attention, "BLOCK", 16)
    monkeypatch.setattr(attention, "KEPT", kept)
    attention._future.cache_clear()  # pyright: ignore[reportPrivateUsage]
    compare((40, 7, 33), 40, 2)
    attention._future.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_torchs_own_kernels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accelerator runs."""
    leaves = states(30, extra=2)
    found = attention._plain(*leaves, (10, 8, 12), 10, 8**-0.5, 0.0)  # pyright: ignore[reportPrivateUsage]
    torch.testing.assert_close(found, reference(*leaves, (10, 8, 12), 10))
