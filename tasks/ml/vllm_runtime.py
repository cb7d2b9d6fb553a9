"""vLLM as a runtime, by its own offline engine: what most fine-tuned models are served by.

Its engine gives log-probabilities of a prompt's tokens, of each alone (`prompt_logprobs=0`) or over the whole vocabulary
(-1), which are logits but for a constant a token. Nothing is cached between requests and scheduling is deterministic, so that
equal requests get equal answers on one kind of machine.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.data.chatset import Tokens
from tasks.ml import engines, head
from tasks.ml.serving import Served, until_end

SHARE = 0.4
"""Of the accelerator's memory: the model that a format is compared with needs its own."""
ROWS = 256
"""Scored by one call."""


@dataclass(frozen=True)
class Server:
    """`engine`: the module vllm; `adapter`: its LoRARequest, or None."""

    engine: Any
    model: Any
    adapter: Any = None

    def ask(self, prompts: Sequence[Sequence[int]], **wanted: Any) -> list[Any]:
        """Greedy, by token ids alone; an answer a prompt, in their order. A model's own idea of its last token does not
        end an answer: `stop_token_ids` alone does."""
        params = self.engine.SamplingParams(temperature=0, seed=0, ignore_eos=True, detokenize=False, **wanted)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self.model.generate(asked, params, use_tqdm=False, lora_request=self.adapter)


def serve(folder: Path, dtype: str = "auto", adapter: Path | None = None) -> Served:
    """A finished folder in vLLM, with a LoRA on it if one is given. ModelError: vLLM can't load it."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # scheduling is deterministic in one process only
    engine: Any = importlib.import_module("vllm")  # by name: type checkers need not find it
    try:
        model = engine.LLM(
            model=str(folder), skip_tokenizer_init=True, trust_remote_code=False, generation_config="vllm", seed=0,
            dtype=dtype, max_logprobs=-1, logprobs_mode="raw_logprobs", enable_prefix_caching=False,
            gpu_memory_utilization=SHARE, **(_room(adapter) if adapter else {}),
        )  # fmt: skip
        server = Server(engine, model, _request(model, adapter) if adapter else None)
    except (ValueError, RuntimeError, OSError) as error:
        what = f"{adapter} on {folder}" if adapter else folder
        raise ModelError(f"vLLM can't load {what}: {error}; or set evaluate.engine to transformers") from None
    runtime = f"vllm {metadata.version('vllm')}"
    return Served(runtime, partial(_logits, server), partial(_generate, server), partial(_losses, server), batches=True)


def _room(adapter: Path) -> dict[str, Any]:
    highest = engines.rank(json.loads((adapter / "adapter_config.json").read_bytes()))
    return {
        "enable_lora": True, "max_loras": 1, "max_lora_rank": next(size for size in engines.RANKS if size >= highest),
    }  # fmt: skip


def _request(model: Any, adapter: Path) -> Any:
    """Loaded at once, so that an adapter that does not fit is no surprise later."""
    request = importlib.import_module("vllm.lora.request").LoRARequest("adapter", 1, str(adapter.absolute()))
    model.llm_engine.add_lora(request)
    return request


def _logits(server: Server, row: Tokens) -> Iterator[Tensor]:
    (answer,) = server.ask([row.ids], max_tokens=1, prompt_logprobs=-1)
    places = _places(row)
    for start in range(0, len(places), head.CHUNK):
        yield torch.stack([_row(answer.prompt_logprobs[place]) for place in places[start : start + head.CHUNK]])


def _row(found: Any) -> Tensor:
    """Over the vocabulary, from what vLLM says of each token."""
    values = torch.full((max(found) + 1,), -torch.inf)
    values[list(found)] = torch.tensor([each.logprob for each in found.values()])
    return values


def _losses(server: Server, rows: Sequence[Tokens]) -> Iterator[tuple[float, int]]:
    """From the log-probability of each labelled token alone."""
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        answers = server.ask([row.ids for row in some], max_tokens=1, prompt_logprobs=0)
        for row, answer in zip(some, answers, strict=True):
            logs = [answer.prompt_logprobs[place][row.ids[place]].logprob for place in _places(row)]
            yield (-sum(logs) / len(logs) if logs else 0.0), len(logs)


def _places(row: Tokens) -> list[int]:
    """Of the labelled tokens that something predicts."""
    return [place for place, mark in enumerate(row.loss) if mark and place > 0]


def _generate(server: Server, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int]) -> list[list[int]]:
    answers = server.ask(prompts, max_tokens=most, stop_token_ids=sorted(ends))
    return [until_end(list(answer.outputs[0].token_ids), ends) for answer in answers]
