"""LoRA+: B learns `ratio` times as fast as A (Hayou et al. 2024, arXiv 2402.12354)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.sections import TrainParams
from tasks.ml.lora.sections import LoraplusOptions as Options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned

__all__ = ["Options", "attach", "base"]


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """LoRA with two rates. As in PEFT's optimizer, vectors such as biases go with B."""
    from dataclasses import replace

    from tasks.ml.lora import attachment

    tuned = attachment.attach(model, params, options, ahead)
    fast = frozenset(name for name, value in tuned.trainable().items() if ".lora_B." in name or value.ndim == 1)
    return replace(tuned, rate=lambda name: options.ratio if name in fast else 1.0)
