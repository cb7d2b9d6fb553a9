"""QLoRA: LoRA on a frozen base in NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314)."""

from __future__ import annotations

from tasks.ml.methods.lora import attach

__all__ = ["NF4_BASE", "attach"]

NF4_BASE = True
