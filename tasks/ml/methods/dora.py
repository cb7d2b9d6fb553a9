"""DoRA: m (W + s B A) / |W + s B A| by rows, m trained as well (Liu et al. 2024, arXiv 2402.09353, equation 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.sections import TrainParams
from tasks.ml.lora.sections import DoraOptions as Options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned

__all__ = ["Options", "attach", "base"]


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """LoRA with a float32 magnitude a row, which may rest at first."""
    from tasks.ml.lora import attachment, magnitude

    tuned = attachment.attach(model, params, options, ahead, dora=True)
    return magnitude.staged(tuned, options.magnitude, ahead.steps)
