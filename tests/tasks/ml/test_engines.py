"""Which engine answers, and what is said where vLLM can't."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import preflight
from tasks.core.errors import ParamsError
from tasks.core.params import Params
from tasks.core.sections import EvaluateParams
from tasks.data.tokens import ChatTokenizer
from tasks.ml import engines, generation, loading, serving
from tests import tiny

MISSING = engines.missing()
WITHOUT = pytest.mark.skipif(MISSING is None, reason="vLLM and a GPU are here")


@WITHOUT
def test_without_vllm_transformers_answers(tiny_base: Path, tmp_path: Path) -> None:
    assert MISSING and "vLLM" in MISSING
    assert not engines.is_vllm("auto") and not engines.is_vllm("transformers")
    assert serving.exported(tiny_base, "auto").runtime.startswith("transformers")


@WITHOUT
def test_asking_for_vllm_without_it_is_refused_before_the_run(tiny_base: Path) -> None:
    params = Params.model_validate(tiny.params(tiny_base, evaluate={"engine": "vllm"}))
    with pytest.raises(ParamsError, match=r"^evaluate\.engine: vllm: vLLM .*; or set it to auto or transformers"):
        preflight.check(params)
    with pytest.raises(ParamsError, match=r"evaluate\.engine"):
        engines.is_vllm("vllm")


@pytest.mark.skipif(engines.accelerators() > 0, reason="there is an accelerator")
def test_a_machine_without_a_driver_has_no_accelerator() -> None:
    assert engines.accelerators() == 0


LORA = {"peft_type": "LORA", "r": 16, "bias": "none", "init_lora_weights": True, "use_dora": False}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None), ({"init_lora_weights": "gaussian", "use_rslora": True}, None), ({"rank_pattern": {"q": 512}}, None),
        ({"peft_type": "IA3"}, "this is IA3"), ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"init_lora_weights": "pissa_niter_4"}, "another base"),
        ({"rank_pattern": {"q": 513}}, "rank 513 is above 512"),
    ],
)  # fmt: skip
def test_what_vllm_serves_is_known_from_an_adapter_s_config(
    tmp_path: Path, changes: dict[str, Any], why: str | None
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA | changes))
    found = engines.refuses(tmp_path, "bfloat16")
    assert found is None if why is None else found and why in found
    assert engines.refuses(tmp_path, "float32"), "LoRA is computed in 16 bits there"


def test_an_adapter_of_our_own_is_none_for_vllm(tmp_path: Path) -> None:
    assert "no PEFT adapter" in str(engines.refuses(tmp_path, "bfloat16"))


def test_answers_come_in_batches_of_like_length_and_are_the_same_again(tiny_base: Path) -> None:
    tokenizer = ChatTokenizer(tiny_base)
    plain = serving.of(loading.load(tiny_base, loading.compute_dtype("float32")), tiny_base)
    asked: list[list[int]] = []

    def watched(generate: Callable[..., list[list[int]]]) -> Callable[..., list[list[int]]]:
        def generated(prompts: Any, most: int, ends: frozenset[int]) -> list[list[int]]:
            asked.append([len(prompt) for prompt in prompts])
            return generate(prompts, most, ends)

        return generated

    served = serving.Served(plain.runtime, plain.logits, watched(plain.generate))
    prompts = [tokenizer.prompt(turns) for turns in tiny.conversations(20)]
    params = EvaluateParams(batch_size=6, max_new_tokens=8)
    texts, generated = generation.answer(served, tokenizer, prompts, params, "test")
    assert [len(batch) for batch in asked] == [6, 6, 6, 2]
    flat = [length for batch in asked for length in batch]
    assert flat == sorted(flat, reverse=True) and len({*flat}) > 3
    assert generation.answer(served, tokenizer, prompts, params, "test") == (texts, generated)
    alone = [tokenizer.decode(plain.generate([prompt], 8, tokenizer.ends)[0]) for prompt in prompts]
    assert texts == alone, "in the order asked"
    whole = serving.Served(plain.runtime, plain.logits, watched(plain.generate), batches=True)
    asked.clear()
    assert generation.answer(whole, tokenizer, prompts, params, "test") == (texts, generated)
    assert [len(batch) for batch in asked] == [20]
