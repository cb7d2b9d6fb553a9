"""A finished model as its runtime serves it: what every target is judged by, whichever runtime that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core.sections import Engine
from tasks.core.standing import BESIDE
from tasks.data.chatset import Tokens
from tasks.ml import engines, loading, packing
from tasks.ml.tuned import Runner


@dataclass(frozen=True)
class Served:
    """`logits(row)`: what predicts the row's labelled tokens, in order; float32, a chunk of (at most 128, vocabulary) at a
    time. `generate(prompts, most, ends)`: greedy; at most so many new ids a prompt, up to and with the first of `ends`.
    `losses(rows)`: as `row_losses`, where the runtime has them without all logits. `runtime` says in words what computes them.
    One that `batches` wants all prompts at once, and takes its share of the memory ahead, so that its peak says nothing.
    """

    runtime: str
    logits: Callable[[Tokens], Iterator[Tensor]]
    generate: Callable[[Sequence[Sequence[int]], int, frozenset[int]], list[list[int]]]
    losses: Callable[[Sequence[Tokens]], Iterator[tuple[float, int]]] | None = None
    batches: bool = False


def of(model: PreTrainedModel, folder: Path) -> Served:
    """A model that transformers loaded from `folder`, with the adapter that stands beside its weights, if one does."""
    beside = folder / BESIDE
    return by_transformers(loading.with_adapter(model, beside) if beside.is_dir() else Runner.of(model))


def exported(folder: Path, engine: Engine) -> Served:
    """A finished format that both vLLM and transformers load: in vLLM where that is the engine and no adapter stands beside."""
    if not (folder / BESIDE).is_dir() and engines.is_vllm(engine):
        from tasks.ml import vllm_runtime

        return vllm_runtime.serve(folder)
    return of(loading.load(folder, loading.compute_dtype("auto")), folder)


def by_transformers(runner: Runner) -> Served:
    return Served(f"transformers {transformers.__version__}", partial(_logits, runner), partial(_generate, runner))


@torch.inference_mode()  # as a decorator: a `with` would stay open in the caller between two chunks
def _logits(runner: Runner, row: Tokens) -> Iterator[Tensor]:
    yield from runner.logits(packing.pack([row]))


def _generate(runner: Runner, prompts: Sequence[Sequence[int]], most: int, ends: frozenset[int]) -> list[list[int]]:
    """All prompts together, padded on the left."""
    width, pad = max(map(len, prompts)), min(ends)
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=runner.model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=runner.model.device)
    with torch.inference_mode():
        out = runner.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False,
            eos_token_id=sorted(ends), pad_token_id=pad,
        )  # fmt: skip
    return [until_end(row, ends) for row in out[:, width:].tolist()]


def until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Up to and with the first id that ends a turn."""
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: stop + 1]


def row_losses(served: Served, rows: Sequence[Tokens]) -> Iterator[tuple[float, int]]:
    """Each row's mean cross-entropy over its labelled tokens, in nats, and their number."""
    if served.losses:
        yield from served.losses(rows)
        return
    for row in rows:
        wanted = targets(row)
        logs = [chunk.log_softmax(-1) for chunk in served.logits(row)]
        picked = torch.cat(logs).gather(1, wanted[:, None]) if logs else torch.zeros(0)
        yield (-picked.mean().item() if len(wanted) else 0.0), len(wanted)


def targets(row: Tokens) -> Tensor:
    """The labelled tokens that something predicts: all but a first one."""
    return torch.tensor(
        [token for token, mark in zip(row.ids[1:], row.loss[1:], strict=True) if mark], dtype=torch.long
    )
