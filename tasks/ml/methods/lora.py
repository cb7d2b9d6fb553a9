"""LoRA: W + (alpha/r) B A with B = 0 at the start (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.sections import TrainParams
from tasks.ml.lora.sections import LoraOptions as Options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned

__all__ = ["Options", "attach", "base"]


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """Trainable A and B beside every target layer; A is Kaiming-uniform from the seed that torch has now."""
    from tasks.ml.lora import attachment

    return attachment.attach(model, params, options, ahead)
