"""The last layers train, all below them is frozen: no gradient is computed there either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.core.errors import ParamsError
from tasks.core.sections import Count, Section, TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(Section):
    layers: Annotated[Count, Field(description="so many of the last layers train")] = 2
    embeddings: Annotated[bool, Field(description="they train too")] = False
    head: Annotated[bool, Field(description="it trains too; tied to the embeddings, it is the same tensor")] = False


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, _params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """ParamsError: the base has fewer layers."""
    from tasks.ml import blocks, own_weights

    layers = blocks.stack(model)
    if options.layers > len(layers):
        raise ParamsError(
            f"train.options.layers={options.layers}: the base has {len(layers)} layers; train.method=full trains all"
        )
    names = blocks.parameters(dict(list(layers.items())[-options.layers :]))
    names += blocks.embeddings(model) if options.embeddings else []
    names += blocks.head(model) if options.head else []
    return own_weights.tune(model, names, "freeze", options)
