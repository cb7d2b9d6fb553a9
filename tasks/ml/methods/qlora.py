"""QLoRA: LoRA on a frozen base in NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), in int8,
or in the blocks of its own GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.sections import TrainParams
from tasks.ml.lora.sections import QloraOptions as Options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned

__all__ = ["Options", "attach", "base"]


def base(options: Options) -> Base:
    return options.base


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """LoRA or DoRA whose A and B are in the type that the model computes in."""
    from tasks.ml.lora import attachment, magnitude

    tuned = attachment.attach(model, params, options, ahead, dora=options.dora)
    return magnitude.staged(tuned, options.magnitude, ahead.steps) if options.dora else tuned
