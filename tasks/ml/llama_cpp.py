"""llama.cpp as a runtime: what a GGUF file answers where it is served, and with which probabilities."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyllama.llama import llama_cpp
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.data.chatset import Tokens
from tasks.ml import head
from tasks.ml.serving import Served

SEQUENCES = 16
"""Prompts answered together: a step of one token reads all weights, for one prompt or for several."""


Contexts = Callable[[int, int], Any]
"""A context with room for so many tokens in each of so many sequences."""


class Model(llama_cpp.LlamaModel):
    """cyllama 0.2.18 asks its model for the vocabulary's size where only the vocabulary knows it."""

    @property
    def n_vocab(self) -> int:
        return self.get_vocab().n_vocab


def serve(file: Path) -> Served:
    """A GGUF file in llama.cpp, on the processor. ModelError: llama.cpp can't load it."""
    llama_cpp.disable_logging()
    parameters = llama_cpp.LlamaModelParams()
    parameters.n_gpu_layers = 0
    try:
        model = Model(path_model=str(file), params=parameters)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise ModelError(f"llama.cpp can't load {file}: {error}. Make it again: dvc repro quantize") from None
    runtime = f"llama.cpp (cyllama {metadata.version('cyllama')})"
    context = lru_cache(maxsize=2)(partial(_context, model))  # rows of like length share one
    return Served(runtime, partial(_logits, context), partial(_generate, context))


def _context(model: Any, tokens: int, sequences: int) -> Any:
    """Room for so many tokens a sequence, all of them in one call."""
    parameters = llama_cpp.LlamaContextParams()
    parameters.n_ctx = parameters.n_batch = tokens * sequences
    parameters.n_ubatch = min(512, tokens * sequences)
    parameters.n_seq_max = sequences
    parameters.n_threads = parameters.n_threads_batch = threads()
    return llama_cpp.LlamaContext(model=model, params=parameters)


def threads() -> int:
    return int(os.environ.get("TUNELINE_THREADS", len(os.sched_getaffinity(0))))


def _logits(context_of: Contexts, row: Tokens) -> Iterator[Tensor]:
    places = [place - 1 for place, mark in enumerate(row.loss) if mark and place > 0]
    context = _empty(context_of(_padded(len(row.ids)), 1))
    wanted = set(places)
    _decode(context, [(token, place, 0, place in wanted) for place, token in enumerate(row.ids)])
    for start in range(0, len(places), head.CHUNK):
        yield torch.tensor([context.get_logits_ith(place) for place in places[start : start + head.CHUNK]])


def _padded(tokens: int) -> int:
    """llama.cpp rounds the size of its cache up to this."""
    return -(-tokens // 256) * 256


def _empty(context: Any) -> Any:
    context.kv_cache_clear()
    return context


def _decode(context: Any, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
    """Each token with its position, its sequence and whether its logits are wanted."""
    batch = llama_cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
    for token, position, sequence, wanted in tokens:
        batch.add(token, position, [sequence], wanted)
    context.decode(batch)


def _generate(
    context_of: Contexts, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int]
) -> list[list[int]]:
    answers: list[list[int]] = []
    for start in range(0, len(prompts), SEQUENCES):
        answers += _together(context_of, prompts[start : start + SEQUENCES], most, ends)
    return answers


def _together(
    context_of: Contexts, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int]
) -> list[list[int]]:
    """A sequence each; a step is one call with a token of every sequence that goes on."""
    context = _empty(context_of(_padded(max(map(len, prompts)) + most), len(prompts)))
    answers: list[list[int]] = [[] for _ in prompts]
    for sequence, prompt in enumerate(prompts):
        _decode(context, [(token, at, sequence, at == len(prompt) - 1) for at, token in enumerate(prompt)])
        _choose(context, {sequence: len(prompt) - 1}, answers)
    for step in range(1, most):
        going = [sequence for sequence in range(len(prompts)) if answers[sequence][-1] not in ends]
        if not going:
            break
        _decode(context, [(answers[s][-1], len(prompts[s]) + step - 1, s, True) for s in going])
        _choose(context, {sequence: place for place, sequence in enumerate(going)}, answers)
    return answers


def _choose(context: Any, places: dict[int, int], answers: list[list[int]]) -> None:
    """The likeliest next token of each sequence."""
    for sequence, place in places.items():
        logits = context.get_logits_ith(place)
        answers[sequence].append(int(np.argmax(logits)))
