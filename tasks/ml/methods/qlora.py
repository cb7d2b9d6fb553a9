"""QLoRA: LoRA on a frozen base in NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.ml.methods.lora import Options, attach

if TYPE_CHECKING:
    from tasks.ml.methods import Base

__all__ = ["Options", "attach", "base"]


def base(_options: Options) -> Base:
    return "nf4"
