"""LoRA: W + (alpha/r) B A with B = 0 at the start (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import difflib
from typing import cast

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams
from tasks.ml.loading import forget_path

NF4_BASE = False


def attach(model: PreTrainedModel, params: TrainParams) -> PeftModel:
    """Trainable A and B beside every target layer; A is Kaiming-uniform from the seed that torch has now."""
    _check(model, params)
    config = LoraConfig(
        r=params.rank, lora_alpha=cast("int", params.alpha), lora_dropout=params.dropout, task_type=TaskType.CAUSAL_LM,
        target_modules=params.targets if isinstance(params.targets, str) else list(params.targets),
    )  # fmt: skip
    forget_path(model)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _check(model: PreTrainedModel, params: TrainParams) -> None:
    """Refuse before the expensive part what PEFT would refuse late or accept silently."""
    head = model.get_output_embeddings()
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }
    suffixes = sorted({name.rpartition(".")[2] for name in linear})
    if isinstance(params.targets, str):
        chosen = suffixes if params.targets == "all-linear" else [params.targets]
    else:
        chosen = list(params.targets)
    for target in chosen:
        hits = {name: module for name, module in linear.items() if name == target or name.endswith("." + target)}
        if not hits:
            near = difflib.get_close_matches(target, suffixes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ParamsError(
                f"train.targets: no linear layer is called {target!r}; {hint}There are: {', '.join(suffixes)}"
            )
        for name, module in hits.items():
            if params.rank > min(module.in_features, module.out_features):
                raise ParamsError(
                    f"train.rank={params.rank} is above the smaller side of {name} "
                    f"({module.out_features}x{module.in_features}): choose a lower rank"
                )
