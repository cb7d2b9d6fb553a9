"""vLLM answers as transformers does, with an adapter too. Needs vLLM and an NVIDIA GPU, and is skipped without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.data.tokens import ChatTokenizer
from tasks.ml import engines, fidelity, loading, serving, vllm_runtime
from tasks.ml.serving import Served
from tests import runs, tiny

MISSING = engines.missing()
ENGINE = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
ROWS = [runs.row(number, 20 + 30 * number) for number in range(4)]


def prompts(base: Path) -> tuple[list[list[int]], frozenset[int]]:
    """Of the first sample rows, and what ends an answer."""
    tokenizer = ChatTokenizer(base)
    return [tokenizer.prompt(turns) for turns in tiny.conversations(8)], tokenizer.ends


def check_alike(served: Served, plain: Served, base: Path) -> None:
    """The same losses within bfloat16's precision, and the same greedy answers but where two tokens are as likely."""
    found, wanted = (list(serving.row_losses(each, ROWS)) for each in (served, plain))
    assert [count for _, count in found] == [count for _, count in wanted]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in wanted], abs=0.03)
    asked, ends = prompts(base)
    ours, theirs = (each.generate(asked, 24, ends) for each in (served, plain))
    assert sum(one == other for one, other in zip(ours, theirs, strict=True)) >= 6
    assert served.generate(asked, 24, ends) == ours, "equal requests have equal answers"


@ENGINE
def test_vllm_answers_as_transformers_does(real_base: Path) -> None:
    plain, served = serving.of(loading.load(real_base, torch.bfloat16), real_base), vllm_runtime.serve(real_base)
    assert served.runtime.startswith("vllm") and served.batches
    check_alike(served, plain, real_base)
    near = fidelity.compare(plain, served, ROWS, "rows")
    assert near.kl < 0.01 and near.agreement > 0.95


@ENGINE
def test_vllm_serves_a_lora(real_base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    wrapped: Any = get_peft_model(
        loading.load(real_base, torch.bfloat16), LoraConfig(r=12, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    wrapped.save_pretrained(tmp_path)
    assert engines.is_vllm("vllm", tmp_path)
    plain = serving.by_transformers(loading.with_adapter(loading.load(real_base, torch.bfloat16), tmp_path))
    check_alike(vllm_runtime.serve(real_base, "bfloat16", tmp_path), plain, real_base)


def test_log_probabilities_come_in_the_vocabulary_s_order() -> None:
    class Found:
        def __init__(self, logprob: float) -> None:
            self.logprob = logprob

    row = vllm_runtime._row({2: Found(-3.0), 0: Found(-1.0), 1: Found(-2.0)})  # pyright: ignore[reportPrivateUsage]
    assert row.tolist() == [-1, -2, -3]
