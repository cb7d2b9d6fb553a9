"""LISA: embeddings and head always train, and of the layers a few that are drawn anew each period
(Pan et al. 2024, arXiv 2403.17919, Algorithm 1). Optimizer memory is held for what trains now only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.core.errors import ParamsError
from tasks.core.sections import Count, Section, TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(Section):
    layers: Annotated[Count, Field(description="that train at one time; the paper's gamma")] = 2
    period: Annotated[Count, Field(description="optimizer steps until others are drawn; the paper's K")] = 10


def base(_options: Options) -> Base:
    return "plain"


def active(seed: int, step: int, layers: int, options: Options) -> list[int]:
    """The layers that train in a step (from 1), each as likely as any other: those with the lowest hashes."""
    period = (step - 1) // options.period

    def lot(layer: int) -> bytes:
        return hashlib.sha256(f"lisa {seed} {period} {layer}".encode()).digest()

    return sorted(sorted(range(layers), key=lot)[: options.layers])


def attach(model: PreTrainedModel, params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """ParamsError: more layers shall train than the base has. The final norm is no layer and stays, as in the paper."""
    from tasks.ml import blocks, own_weights

    layers = list(blocks.stack(model).items())
    if options.layers > len(layers):
        raise ParamsError(
            f"train.options.layers={options.layers}: the base has {len(layers)} layers; train.method=full trains all"
        )
    always = [*blocks.embeddings(model), *blocks.head(model)]

    def trains(step: int, _losses: Sequence[float]) -> frozenset[str]:
        chosen = active(params.launch.seed, step, len(layers), options)
        return frozenset([*always, *blocks.parameters(dict(layers[place] for place in chosen))])

    return own_weights.tune(model, [*always, *blocks.parameters(dict(layers))], "lisa", options, trains)
