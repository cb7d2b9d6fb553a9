"""AdaLoRA: W + P E Q, P and Q nearly orthogonal, ranks moved to where they matter (Zhang et al. 2023, arXiv 2303.10512)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.core.sections import TrainParams
from tasks.ml.lora.sections import AdaloraOptions as Options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned

__all__ = ["Options", "attach", "base"]


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """PEFT's parameters, with `train.rank` at the start, and a schedule from the run's own number of steps."""
    from dataclasses import replace

    from peft import AdaLoraConfig
    from transformers.pytorch_utils import Conv1D

    from tasks.ml import peft_tuned, targets
    from tasks.ml.lora.budget import Schedule
    from tasks.ml.lora.triplets import Triplets

    chosen, schedule = targets.choose(model, params), Schedule.of(options, ahead.steps, params.rank)
    layers = targets.linear(model)
    settings: dict[str, Any] = {
        "init_r": params.rank, "lora_alpha": params.alpha, "lora_dropout": options.dropout,
        "target_r": schedule.target, "total_step": ahead.steps, "tinit": schedule.warmup,
        "tfinal": ahead.steps - schedule.fallen, "deltaT": schedule.interval, "beta1": options.beta1,
        "beta2": options.beta2, "orth_reg_weight": options.orthogonality,
        "fan_in_fan_out": any(isinstance(layers[name], Conv1D) for name in chosen),
    }  # fmt: skip
    config = AdaLoraConfig(target_modules=targets.compact(model, chosen), task_type="CAUSAL_LM", **settings)
    tuned = peft_tuned.wrap(model, config)
    for name, value in tuned.runner.model.named_parameters():
        if ".ranknum." in name:
            value.requires_grad_(False)  # on a bfloat16 base PEFT makes the scale's divisor trainable by mistake
    triplets = Triplets(tuned.runner.model, schedule, options.beta1, options.beta2)

    def save(folder: Any) -> None:
        config.rank_pattern = triplets.pattern()
        tuned.save(folder)

    return replace(
        tuned, save=save, after=triplets.after, state=triplets.state, restore=triplets.restore,
        penalty=(lambda: options.orthogonality * triplets.penalty()) if options.orthogonality else None,
    )  # fmt: skip
