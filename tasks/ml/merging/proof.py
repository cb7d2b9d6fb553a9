"""What models answer on the same rows, and how far two of them are apart. One model is in memory at a time."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.core import events, weights
from tasks.data import chatset
from tasks.data.chatset import Tokens
from tasks.ml import fidelity, head, loading, memory, serving
from tasks.ml.tuned import Runner

PROMPTS = 8
"""Rows whose logits are compared, of each what predicts its first labelled tokens."""
HELD_OUT = 64
"""Rows that a held-out loss is the mean over."""
ROOM = 1.3
"""What a model takes, for each byte of its weights: adapter, activations, what reading leaves behind."""


@dataclass(frozen=True)
class Rows:
    """`prompts` are compared by their logits, `held_out` by their loss. `split`: where they are from."""

    split: str
    prompts: Sequence[Tokens]
    held_out: Sequence[Tokens]

    @classmethod
    def of(cls, chat: Path) -> Rows:
        """The first of the validation split, whose order is that of their hashes; without one, of the training split."""
        valid = chatset.read(chat / "valid.parquet")
        rows: list[Any] = list(valid) or chatset.Packs(chat / "train")[0]
        return cls("valid" if valid else "train", rows[:PROMPTS], rows[:HELD_OUT])


@dataclass(frozen=True)
class Answers:
    """`logits`: a file a prompt. `loss`: a labelled token of the held-out rows, in nats; None: it was not asked for."""

    logits: Sequence[Path]
    loss: float | None


@dataclass(frozen=True)
class Apart:
    """Over `tokens` labelled tokens: the largest and the mean difference of a logit, the mean divergence of the second model's
    next-token distributions from the first's in nats, and the share where both find the same token likeliest."""

    tokens: int
    logit_max: float
    logit_mean: float
    kl: float
    agreement: float

    @property
    def facts(self) -> dict[str, float]:
        return {name: fidelity.rounded(value) if name != "tokens" else value for name, value in asdict(self).items()}


def precision(base: Path, trained: torch.dtype) -> torch.dtype | None:
    """What models are computed in: float32 where the memory has room for that, else as in training; None: not even so."""
    size = sum(math.prod(it.shape) for shard in weights.shards(base) for it in weights.header(shard).values())
    room = memory.room()
    fitting = (dtype for dtype in (torch.float32, trained) if ROOM * size * dtype.itemsize < room)
    return next(fitting, None)


def ask(load: Callable[[], Runner], rows: Rows, into: Path, what: str, *, loss: bool = False) -> Answers:
    """Load a model, let it answer, and forget it."""
    into.mkdir()
    served = serving.by_transformers(load())
    files = [into / f"{number}.safetensors" for number in range(len(rows.prompts))]
    for number, (row, file) in enumerate(zip(rows.prompts, files, strict=True), start=1):
        first = next(served.logits(row), torch.zeros(0, 1))
        with loading.writing(file):
            save_file({"logits": first.cpu().contiguous()}, file)
        events.progress(f"merge: {what}", number, len(files))
    found = _loss(served, rows.held_out) if loss else None
    del served
    gc.collect()
    return Answers(files, found)


def _loss(served: serving.Served, rows: Sequence[Tokens]) -> float:
    losses = list(serving.row_losses(served, rows))
    return sum(loss * count for loss, count in losses) / max(1, sum(count for _, count in losses))


def apart(first: Answers, second: Answers) -> Apart | None:
    """Law: a model is 0, 0, 0 and 1 apart from itself. None: no row has a labelled token. What is not finite is
    far away."""
    tokens, largest, total, values, divergence, agreed = 0, 0.0, 0.0, 0, 0.0, 0
    for one, other in zip(first.logits, second.logits, strict=True):
        for wanted, found in zip(_chunks(one), _chunks(other), strict=True):
            difference = (wanted - found).abs()
            p, q = wanted.log_softmax(-1), found.log_softmax(-1)
            tokens, values = tokens + len(p), values + p.numel()
            largest = max(largest, difference.max().nan_to_num(fidelity.FAR).item())
            total += difference.sum(dtype=torch.float64).item()
            divergence += fidelity.divergence(p, q).sum(dtype=torch.float64).item()
            agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
    if not tokens:
        return None
    if math.isnan(divergence):
        return Apart(tokens, fidelity.FAR, fidelity.FAR, fidelity.FAR, 0.0)
    return Apart(tokens, largest, total / values, divergence / tokens, agreed / tokens)


def _chunks(file: Path) -> Sequence[Tensor]:
    return [chunk for chunk in load_file(file)["logits"].split(head.CHUNK // 4) if len(chunk)]
