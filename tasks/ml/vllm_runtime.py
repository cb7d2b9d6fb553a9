"""vLLM as a runtime, where it is installed and there is an accelerator: what most fine-tuned models are served by.

Its engine gives log-probabilities of a prompt's tokens over the whole vocabulary (`prompt_logprobs=-1`), which are logits
but for a constant a token.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.data.chatset import Tokens
from tasks.ml import head
from tasks.ml.serving import Served, until_end

SHARE = 0.4
"""Of the accelerator's memory: the model that a format is compared with needs its own."""


def missing() -> str | None:
    """Why this machine does not serve by vLLM, or None."""
    if not importlib.util.find_spec("vllm"):
        return "vLLM is not installed: pip install vllm"
    return None if torch.cuda.is_available() else "vLLM needs an accelerator, and there is none"


def serve(folder: Path) -> Served:
    """A finished folder in vLLM, by token ids alone. ModelError: vLLM can't load it."""
    engine: Any = importlib.import_module("vllm")  # by name: type checkers need not find it
    try:
        model = engine.LLM(
            model=str(folder), skip_tokenizer_init=True, trust_remote_code=False, generation_config="vllm", seed=0,
            max_logprobs=-1, logprobs_mode="raw_logprobs", enable_prefix_caching=False, gpu_memory_utilization=SHARE,
        )  # fmt: skip
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"vLLM can't load {folder}: {error}") from None
    runtime = f"vllm {metadata.version('vllm')}"
    return Served(runtime, partial(_logits, engine, model), partial(_generate, engine, model))


def _logits(engine: Any, model: Any, row: Tokens) -> Iterator[Tensor]:
    asked = engine.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1, detokenize=False)
    (answer,) = model.generate([{"prompt_token_ids": list(row.ids)}], asked, use_tqdm=False)
    places = [place for place, mark in enumerate(row.loss) if mark and place > 0]
    for start in range(0, len(places), head.CHUNK):
        yield torch.stack([_row(answer.prompt_logprobs[place]) for place in places[start : start + head.CHUNK]])


def _row(found: Any) -> Tensor:
    """Over the vocabulary, from what vLLM says of each token."""
    values = torch.full((max(found) + 1,), -torch.inf)
    values[list(found)] = torch.tensor([each.logprob for each in found.values()])
    return values


def _generate(
    engine: Any, model: Any, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int]
) -> list[list[int]]:
    asked = engine.SamplingParams(temperature=0, max_tokens=most, stop_token_ids=sorted(ends), detokenize=False)
    answers = model.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], asked, use_tqdm=False)
    return [until_end(list(answer.outputs[0].token_ids), ends) for answer in answers]
