"""BitFit: only the biases train (Ben Zaken et al. 2021, arXiv 2106.10199)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.errors import ParamsError
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
    """All biases the base has, those of its norms included. ParamsError: it has none."""
    from tasks.ml import own_weights

    names = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    if not names:
        raise ParamsError(
            f"train.method=bitfit: {type(model).__name__} has no biases in this base; ln_tuning trains its norms "
            "instead, as cheaply, and lora suits every base"
        )
    return own_weights.tune(model, names, "bitfit", options)
