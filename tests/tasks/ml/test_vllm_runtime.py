"""vLLM answers as transformers does; without it, and an accelerator, formats are judged by transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.ml import fidelity, loading, serving, vllm_runtime
from tests import runs

MISSING = vllm_runtime.missing()


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_vllm_answers_as_transformers_does(real_base: Path) -> None:
    plain, served = serving.of(loading.load(real_base, torch.bfloat16), real_base), serving.exported(real_base)
    assert served.runtime.startswith("vllm")
    near = fidelity.compare(plain, served, [runs.row(number, 20 + 30 * number) for number in range(4)], "rows")
    assert near.kl < 0.01 and near.agreement > 0.95
    prompts = [list(range(300, 310)), list(range(40, 45))]
    wanted = plain.generate(prompts, 8, frozenset({2}))
    assert [len(ids) for ids in served.generate(prompts, 8, frozenset({2}))] == [len(ids) for ids in wanted]


@pytest.mark.skipif(MISSING is None, reason="vLLM is here")
def test_without_it_transformers_serves(tiny_base: Path) -> None:
    assert "vLLM" in str(MISSING)
    assert serving.exported(tiny_base).runtime.startswith("transformers")


def test_log_probabilities_come_in_the_vocabulary_s_order() -> None:
    class Found:
        def __init__(self, logprob: float) -> None:
            self.logprob = logprob

    row = vllm_runtime._row({2: Found(-3.0), 0: Found(-1.0), 1: Found(-2.0)})  # pyright: ignore[reportPrivateUsage]
    assert row.tolist() == [-1, -2, -3]
