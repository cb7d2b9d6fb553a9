"""Prompt tuning: trained vectors before each row's embeddings (Lester et al. 2021, arXiv 2104.08691). Not mergeable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tasks.core.sections import TrainParams
from tasks.ml.prompt_options import PromptOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(PromptOptions):
    init: Annotated[
        Literal["vocabulary", "random"],
        Field(description="embeddings of random tokens, the paper's second best choice after the labels; or noise"),
    ] = "vocabulary"
    text: Annotated[str | None, Field(description="start at the embeddings of these words instead")] = None


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """ParamsError: there is no room before the longest row."""
    from peft import PromptTuningConfig, PromptTuningInit

    from tasks.ml import hybrid, prompt_starts

    words = prompt_starts.of_text(model, options.text, options.tokens) if options.text else None
    init = {"vocabulary": PromptTuningInit.SAMPLE_VOCAB, "random": PromptTuningInit.RANDOM}[options.init]
    config = PromptTuningConfig(num_virtual_tokens=options.tokens, prompt_tuning_init=init, task_type="CAUSAL_LM")
    tuned, learner = hybrid.attach(model, config, params, options, ahead)
    if words:
        prompt_starts.put_vectors(learner, words)
    return tuned
