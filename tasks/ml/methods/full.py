"""Full fine-tuning: every weight of the base trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.sections import Section, TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(Section):
    pass


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, _params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """All parameters train; tied embeddings are one. About 20 bytes of memory a parameter in bfloat16."""
    from tasks.ml import own_weights

    return own_weights.tune(model, [name for name, _ in model.named_parameters()], "full", options)
