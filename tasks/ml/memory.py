"""Out of memory and the way back; the random state that a repeated or resumed step starts from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.core import events
from tasks.data.chatset import Tokens


def is_exhausted(error: BaseException) -> bool:
    """Whether this says that no memory was left: torch has a type for accelerators only."""
    said = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in said or "bad_alloc" in said


def smaller(micro_tokens: int, batch: Sequence[Tokens], model: Any) -> int:
    """Half of what a forward pass took; when that is one row, activations are computed again instead of kept.

    MemoryError: even that does not fit.
    """
    longest = max(len(example.ids) for example in batch)
    taken = min(micro_tokens, sum(len(example.ids) for example in batch))
    if taken > longest:
        events.warning(f"out of memory: from here on {taken // 2} tokens a forward pass instead of {taken}")
        return taken // 2
    if model.is_gradient_checkpointing:
        raise MemoryError
    events.warning("out of memory with one row: from here on activations are computed again in the backward pass")
    recompute(model)
    return micro_tokens


def recompute(model: Any) -> None:
    """Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a layer's activations live only while it is at work."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def fingerprint(value: Tensor) -> int:
    """CRC-32 of the tensor's bytes."""
    return zlib.crc32(value.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes())
