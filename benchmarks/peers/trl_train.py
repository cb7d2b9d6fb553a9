"""TRL's `SFTTrainer` on a lesson. Without a SETTING: as shipped, with only what the lesson asks for.

SETTING: {"config": more of `SFTConfig`, "model": arguments of `from_pretrained`, "adapter": "base" keeps the adapter in
the base's type, "micro": rows of a forward pass, "nf4": true holds the base in NF4}.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, by an interpreter that knows nothing of this one

from benchmarks.peers import lesson, transformers_trainer
from benchmarks.peers.lesson import Answer, Asked, Clock


def train(asked: Asked) -> Answer:
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset
    from peft import LoraConfig

    clock, setting = Clock(asked.lesson), asked.setting
    micro = setting.get("micro", asked.lesson.rows_a_step)
    config = trl.SFTConfig(
        **transformers_trainer.arguments(asked)
        | {"train_sampling_strategy": "sequential", "model_init_kwargs": _loading(setting)}
        | {"per_device_train_batch_size": micro, "gradient_accumulation_steps": asked.lesson.rows_a_step // micro}
        | setting.get("config", {})
    )
    adapter = LoraConfig(
        r=asked.lesson.rank, lora_alpha=asked.lesson.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = trl.SFTTrainer(
        model=str(asked.lesson.base), args=config, peft_config=adapter, callbacks=[transformers_trainer.timed(clock)],
        train_dataset=Dataset.from_dict(transformers_trainer.columns(asked.lesson)),
    )  # fmt: skip
    _cast(trainer.model, setting)
    transformers_trainer.begin_with(trainer.model, asked.lesson)
    trainer.train()
    return clock.answer(trl.__version__, transformers_trainer.losses(trainer))


def _loading(setting: dict[str, Any]) -> dict[str, Any] | None:
    options: dict[str, Any] = dict(setting.get("model", {}))
    if setting.get("nf4", False):
        import torch
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    return options or None


def _cast(model: Any, setting: dict[str, Any]) -> None:
    if setting.get("adapter") == "base":
        for value in model.parameters():
            if value.requires_grad:
                value.data = value.data.to(model.dtype)


if __name__ == "__main__":
    lesson.answer(train(lesson.read()))
