"""LoRA: W + (alpha/r) B A with B = 0 at the start (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.core.sections import Section, Share, TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


class Options(Section):
    dropout: Share = 0.0


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """Trainable A and B beside every target layer; A is Kaiming-uniform from the seed that torch has now."""
    from peft import LoraConfig

    from tasks.ml import peft_tuned, targets

    chosen = targets.compact(model, targets.choose(model, params))
    settings: dict[str, Any] = {"r": params.rank, "lora_alpha": params.alpha, "lora_dropout": options.dropout}
    return peft_tuned.wrap(model, LoraConfig(**settings, target_modules=chosen, task_type="CAUSAL_LM"))
