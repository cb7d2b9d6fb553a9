"""Every setting of the peers that was tried to find their best, each of them once, on the lesson of benchmarks/train.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Findings, Options
from benchmarks.peers.peer import LLAMA_FACTORY, TRL, UNSLOTH, Peer
from benchmarks.training import against, course

STORED = {"gradient_checkpointing": False}
PURE = STORED | {"bf16": False}
"""No autocast: what the base is in is what is computed in."""
BFLOAT16 = {"dtype": "bfloat16"}
FLAT = {"padding_free": True, "max_length": None}

TRIED: tuple[tuple[Peer, Mapping[str, Mapping[str, Any]]], ...] = (
    (TRL, {
        "as shipped: float32 base, autocast, activations recomputed, 8 rows": {},
        "1 row at a time": {"micro": 1},
        "1 row, activations kept": {"micro": 1, "config": STORED},
        "1 row, kept, bfloat16 base": {"micro": 1, "config": PURE, "model": BFLOAT16},
        "1 row, kept, bfloat16 base and adapter": against.TRL_AT_ITS_BEST,
        "1 row, kept, bfloat16 base and adapter, eager attention": against.TRL_AT_ITS_BEST
        | {"model": BFLOAT16 | {"attn_implementation": "eager"}},
        "2 rows, kept, bfloat16 base and adapter": against.TRL_AT_ITS_BEST | {"micro": 2},
        "8 rows laid flat (padding_free), kept, bfloat16": against.TRL_AT_ITS_BEST
        | {"micro": 8, "config": PURE | FLAT},
    }),
    (UNSLOTH, {
        "as in its notebooks: activations recomputed, 2 rows": {},
        "8 rows": {"micro": 8},
        "1 row": {"micro": 1},
        "1 row, activations kept": against.UNSLOTH_AT_ITS_BEST,
        "2 rows, activations kept": against.UNSLOTH_AT_ITS_BEST | {"micro": 2},
        "1 row, activations kept, compiled": against.UNSLOTH_AT_ITS_BEST | {"compile": True},
    }),
    (LLAMA_FACTORY, {
        "as in its examples: bfloat16, activations recomputed, 1 row": {},
        "8 rows, float32": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "bf16": False},
    }),
)  # fmt: skip


def measured(options: Options, folder: Path, base: Path) -> Findings:
    file = against.write(options, folder, base)
    contenders = [course.ours("tuneline", file, folder / "out")]
    contenders += [
        peer.trains(file, folder / "out", setting, name)
        for peer, settings in TRIED
        if not peer.absent()
        for name, setting in settings.items()
    ]
    comparison = harness.compare(contenders, options.rounds)
    found = harness.findings("Settings that were tried: the steps alone", course.steps_only(comparison))
    return replace(found, tables=[*found.tables, against.speeds(comparison), *against.absent()])
