"""Four bits a weight: what codes, scales and zeros may lose, and that the search for zeros loses less."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.ml import int4
from tasks.ml.int4 import Codes

WIDTHS = st.sampled_from([32, 64, 96])


@given(st.integers(0, 2**31), WIDTHS, st.floats(1e-3, 1e3))
def test_no_weight_is_off_by_more_than_half_a_step(seed: int, width: int, size: float) -> None:
    weight = torch.randn(6, width, generator=torch.Generator().manual_seed(seed)) * size
    found = int4.by_range(weight, 32, torch.float32)
    steps = found.scale.repeat_interleave(32, dim=1)
    assert ((found.values() - weight).abs() <= steps * 0.5001).all()
    assert found.codes.max() == 15 and found.codes.min() == 0


@given(st.integers(0, 2**31), WIDTHS)
def test_nibbles_and_codes_are_each_others_inverse(seed: int, width: int) -> None:
    codes = torch.randint(0, 16, (5, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    whole = Codes(codes, torch.ones(5, width // 32), torch.zeros(5, width // 32))
    nibbles = whole.nibbles()
    assert nibbles.shape == (5, width // 2) and nibbles.dtype == torch.int8
    assert Codes.of(nibbles, whole.scale, whole.zero).codes.equal(codes)


@pytest.mark.parametrize("weight", [torch.zeros(2, 64), torch.full((2, 64), 3.5), torch.eye(64) * 1e4 + 1e-3])
@pytest.mark.parametrize("choose", [int4.by_range, int4.by_half_quadratic])
def test_odd_groups_stay_finite_and_near(weight: torch.Tensor, choose: int4.Choice) -> None:
    """All zero, all alike, one huge outlier a row."""
    found = choose(weight, 32, torch.bfloat16).values()
    assert found.isfinite().all()
    assert ((found - weight).abs() <= weight.abs().amax(1, keepdim=True) / 15).all()


def with_outliers(rows: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, 128) + (torch.rand(rows, 128) < 0.02) * 3


@pytest.mark.parametrize("group", int4.GROUPS)
def test_the_half_quadratic_zero_makes_errors_sparse(group: int) -> None:
    weight = with_outliers(600)
    norms = dict[str, torch.Tensor]()
    for choose in (int4.by_range, int4.by_half_quadratic):
        error = choose(weight, group, torch.bfloat16).values() - weight
        norms[choose.__name__] = error.abs().pow(int4.POWER).unflatten(1, (-1, group)).sum(-1)
    assert (norms["by_half_quadratic"] <= norms["by_range"] * 1.0001).all()
    assert norms["by_half_quadratic"].sum() < norms["by_range"].sum() * 0.98


def test_it_is_at_least_as_good_as_torchaos() -> None:
    primitives = pytest.importorskip("torchao.quantization.quant_primitives", reason="pip install 'tuneline[torchao]'")
    weight = with_outliers(64)
    codes, scale, zero, _ = primitives._choose_qparams_and_quantize_affine_hqq(
        weight, nbits=4, group_size=64, axis=1, compute_dtype=torch.float32, device="cpu"
    )
    theirs = Codes(codes.to(torch.uint8), scale.view(64, -1), zero.view(64, -1)).values()
    ours = int4.by_half_quadratic(weight, 64, torch.float32).values()
    theirs_error, our_error = ((found - weight).abs().pow(int4.POWER).mean() for found in (theirs, ours))
    assert our_error <= theirs_error * 1.001


def test_torchaos_processor_product_multiplies_these_codes() -> None:
    weight = with_outliers(32)
    found = int4.by_range(weight, 32, torch.bfloat16)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(found.codes.int(), 1)
    both = torch.stack([found.scale.t(), found.zero.t()], dim=-1).contiguous()
    product = torch.ops.aten._weight_int4pack_mm_for_cpu(torch.eye(128, dtype=torch.bfloat16), packed, 32, both)
    torch.testing.assert_close(product.float().t(), found.values(), rtol=0.01, atol=0.02)
