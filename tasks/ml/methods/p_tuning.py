"""P-tuning: vectors before each row's embeddings, made by a small network that only trains (Liu et al. 2021, arXiv
2103.10385). Saved are the vectors. Not mergeable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tasks.core.sections import Count, Share, TrainParams
from tasks.ml.prompt_options import PromptOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(PromptOptions):
    encoder: Literal["mlp", "lstm"] = "mlp"
    hidden: Annotated[Count | None, Field(description="of the encoder; null: the base's")] = None
    layers: Annotated[Count, Field(description="of the LSTM")] = 2
    dropout: Annotated[Share, Field(description="between the LSTM's layers")] = 0.0


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """ParamsError: there is no room before the longest row."""
    from peft import PromptEncoderConfig

    from tasks.ml import hybrid

    settings: dict[str, Any] = {}
    if options.encoder == "lstm":
        settings = {"encoder_num_layers": options.layers, "encoder_dropout": options.dropout}
    config = PromptEncoderConfig(
        num_virtual_tokens=options.tokens, encoder_reparameterization_type=options.encoder.upper(),
        encoder_hidden_size=options.hidden or model.config.get_text_config().hidden_size, task_type="CAUSAL_LM", **settings,
    )  # fmt: skip
    return hybrid.attach(model, config, params, options, ahead)[0]
