"""Rotary position parameters of a GGUF model, with what the file says of their scaling.

Llama 3.1 and later scale low frequencies (`rope_type: llama3`); llama.cpp's converter stores the resulting divisors as
a tensor and drops the parameters. They are found again from it, because a model without them reads every text wrongly.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from tasks.ml.gguf_base.facts import Facts

TENSOR = "rope_freqs.weight"

_WINDOW, _LOW, _HIGH = 8192, 1.0, 4.0
"""Of all models published with `llama3` scaling; only the factor differs."""


def parameters(facts: Facts, head: int) -> dict[str, Any]:
    """`rope_parameters` of the config. ModelError: scaled in a way that can't be carried over."""
    theta = facts.real(".rope.freq_base") if facts.has(".rope.freq_base") else 10000.0
    if facts.has(".rope.scaling.type") and (kind := facts.text(".rope.scaling.type")) != "none":
        facts.refuse(f"its positions are scaled ({kind}), which can't be carried over: use the original weights")
    if TENSOR not in facts.gguf.tensors:
        return {"rope_theta": theta, "rope_type": "default"}
    found = _divisors(facts, head)
    factor = max(found)
    wanted = _llama3(theta, head, factor)
    if not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(found, wanted, strict=True)):
        facts.refuse(f"its positions are scaled in a way not known here ({TENSOR}): use the original weights")
    return {
        "factor": factor, "high_freq_factor": _HIGH, "low_freq_factor": _LOW,
        "original_max_position_embeddings": _WINDOW, "rope_theta": theta, "rope_type": "llama3",
    }  # fmt: skip


def _divisors(facts: Facts, head: int) -> tuple[float, ...]:
    tensor = facts.gguf.tensors[TENSOR]
    if tensor.kind.name != "F32" or tensor.shape != (head // 2,):
        facts.refuse(f"the tensor {TENSOR!r} is {tensor.kind.name} {tensor.shape}, not F32 ({head // 2},)")
    found = struct.unpack_from(f"<{head // 2}f", facts.gguf.data, tensor.start)
    if not all(1 <= divisor < math.inf for divisor in found):
        facts.refuse(f"the tensor {TENSOR!r} holds values below 1 or without end")
    return found


def _llama3(theta: float, head: int, factor: float) -> list[float]:
    """What each frequency is divided by: 1 for short waves, `factor` for long ones, between them a smooth passage."""
    divisors = list[float]()
    for place in range(0, head // 2 * 2, 2):
        wave = 2 * math.pi * theta ** (place / head)
        smooth = min(max((_WINDOW / wave - _LOW) / (_HIGH - _LOW), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors
