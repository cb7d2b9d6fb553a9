"""Section 7 of the LoRA paper, against its formulas spelled out on dense matrices in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.ml import subspaces


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SIDES = st.integers(2, 24)


@given(SIDES, SIDES, st.integers(1, 8), st.integers(0, 1000))
def test_a_products_directions_are_those_of_the_dense_matrix(outputs: int, inputs: int, rank: int, seed: int) -> None:
    b, a = noise(seed, outputs, rank), noise(seed + 1, rank, inputs)
    found = subspaces.of_product(b, a)
    torch.testing.assert_close(found.u * found.s @ found.v.mT, b @ a)
    assert len(found.s) == min(outputs, inputs, rank)
    for side in (found.u, found.v):
        torch.testing.assert_close(side.mT @ side, torch.eye(len(found.s), dtype=torch.float64))
    torch.testing.assert_close(found.s, torch.linalg.svdvals(b @ a)[: len(found.s)])


def test_directions_of_no_size_are_left_out() -> None:
    b, a = noise(0, 12, 4), noise(1, 4, 9)
    b[:, 3] = b[:, 2]
    assert len(subspaces.of_product(b, a).s) == 3
    assert len(subspaces.of_matrix(torch.zeros(5, 4)).s) == 0
    assert len(subspaces.of_product(b[:, :0], a[:0]).s) == 0


@given(SIDES, SIDES, st.integers(1, 4), st.integers(0, 1000))
def test_amplification_is_the_papers(outputs: int, inputs: int, rank: int, seed: int) -> None:
    """|dW| / |U' W V'| with U, V from dW; and |U' W V'| with U, V from W itself."""
    weight, b, a = noise(seed, outputs, inputs), noise(seed + 1, outputs, rank), noise(seed + 2, rank, inputs)
    found = subspaces.amplification(weight, subspaces.of_product(b, a))
    count = min(rank, outputs, inputs)
    u, _, v = torch.linalg.svd(b @ a)
    own = (u[:, :count].mT @ weight @ v[:count].mT).norm().item()
    u, _, v = torch.linalg.svd(weight)
    top = (u[:, :count].mT @ weight @ v[:count].mT).norm().item()
    assert (found.own, found.top) == (pytest.approx(own), pytest.approx(top))
    assert found.factor == pytest.approx((b @ a).norm().item() / own)
    assert found.own <= found.top * (1 + 1e-9) and found.random <= weight.norm().item() * (1 + 1e-9)


def test_random_directions_are_the_mean_over_many() -> None:
    weight, count = noise(3, 20, 30) * torch.linspace(0, 2, 30), 3
    squares = [
        (torch.linalg.qr(noise(2 * draw, 20, count)).Q.mT @ weight @ torch.linalg.qr(noise(2 * draw + 1, 30, count)).Q)
        .square()
        .sum()
        .item()
        for draw in range(10, 2010)
    ]
    found = subspaces.amplification(weight, subspaces.of_product(noise(1, 20, count), noise(2, count, 30)))
    assert found.random == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=0.03)


def test_the_top_of_a_large_weight_is_found_without_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random matrices are the hardest: their singular values lie close together."""
    weight, state = noise(4, 200, 300), torch.get_rng_state()
    exact = subspaces.top(weight, 8)
    monkeypatch.setattr(subspaces, "LARGE", 100)
    assert subspaces.top(weight, 8) == pytest.approx(exact, rel=1e-3)
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(8, 24), st.integers(1, 8), st.integers(1, 8), st.integers(0, 1000))
def test_similarity_is_the_papers(inputs: int, first: int, second: int, seed: int) -> None:
    """phi(i, j) = |U_i' U_j|^2 / min(i, j), for every i and j."""
    a, b = (torch.linalg.svd(noise(seed + n, rank, inputs))[2] for n, rank in enumerate((first, second)))
    found = subspaces.similarity(a[:first].mT, b[:second].mT)
    assert found.shape == (first, second)
    assert found.min() >= 0 and found.max() <= 1 + 1e-9
    for i in range(1, first + 1):
        for j in range(1, second + 1):
            wanted = (a[:i] @ b[:j].mT).norm().square().item() / min(i, j)
            assert found[i - 1, j - 1].item() == pytest.approx(wanted)
    same = subspaces.similarity(a[:first].mT, a[:first].mT)
    torch.testing.assert_close(same, torch.ones_like(same))
