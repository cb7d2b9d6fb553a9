"""Prefix tuning: trained keys and values before each row, in every layer (Li and Liang 2021, arXiv 2101.00190).
Not mergeable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.core.sections import Count, TrainParams
from tasks.ml.prompt_options import PromptOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(PromptOptions):
    init: Annotated[
        Literal["rows", "random", "zero"],
        Field(description="what the base makes of the first tokens of the training rows (section 7.4); noise; zeros"),
    ] = "rows"
    text: Annotated[str | None, Field(description="start at what the base makes of these words instead")] = None
    projection: Annotated[bool, Field(description="through a network that only trains, as in the paper")] = False
    hidden: Annotated[Count | None, Field(description="of that network; null: the base's")] = None

    @model_validator(mode="after")
    def _can_start_there(self) -> Self:
        if self.projection and (self.init == "rows" or self.text):
            raise ValueError(
                "projection can't start at given keys and values: set init to random or zero, without text"
            )
        return self


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """ParamsError: there is no room before the longest row."""
    from peft import PrefixTuningConfig

    from tasks.ml import hybrid, prompt_starts

    words: list[int] = []
    if options.text:
        words = prompt_starts.of_text(model, options.text, options.tokens)
    elif options.init == "rows":
        words = prompt_starts.of_rows(ahead.train, options.tokens)
    config = PrefixTuningConfig(
        num_virtual_tokens=options.tokens, prefix_projection=options.projection,
        encoder_hidden_size=options.hidden or model.config.get_text_config().hidden_size,
        init_weights="zero" if options.init == "zero" and not words else None, task_type="CAUSAL_LM",
    )  # fmt: skip
    tuned, learner = hybrid.attach(model, config, params, options, ahead)
    if words:
        prompt_starts.put_keys(learner, words)
    return tuned
