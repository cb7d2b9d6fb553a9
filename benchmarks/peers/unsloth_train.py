"""unsloth's CPU backend on a lesson, as its notebooks have it: `FastLanguageModel`, its adapter, and `SFTTrainer`.

SETTING: {"checkpointing": false} keeps all activations, where "config", more of `SFTConfig`, says so, too; "micro": rows of a
forward pass; "compile": true compiles the layers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, by an interpreter that knows nothing of this one

from benchmarks.peers import lesson, transformers_trainer
from benchmarks.peers.lesson import Answer, Asked, Clock

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MICRO = 2
"""Rows of a forward pass, as in its notebooks; the others of the step are accumulated."""


def train(asked: Asked) -> Answer:
    os.environ.update(UNSLOTH_FORCE_CPU="1", UNSLOTH_DISABLE_STATISTICS="1")
    if asked.setting.get("compile", False):
        os.environ["UNSLOTH_CPU_COMPILE"] = "1"
    import unsloth  # pyright: ignore[reportMissingImports]
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    clock, micro = Clock(asked.lesson), asked.setting.get("micro", MICRO)
    model, tokenizer = _model(unsloth, asked)
    config = SFTConfig(
        **transformers_trainer.arguments(asked)
        | {"train_sampling_strategy": "sequential"}
        | {"per_device_train_batch_size": micro, "gradient_accumulation_steps": asked.lesson.rows_a_step // micro}
        | asked.setting.get("config", {})
    )
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, args=config, callbacks=[transformers_trainer.timed(clock)],
        train_dataset=Dataset.from_dict(transformers_trainer.columns(asked.lesson)),
    )  # fmt: skip
    transformers_trainer.begin_with(trainer.model, asked.lesson)
    trainer.train()
    return clock.answer(unsloth.__version__, transformers_trainer.losses(trainer))


def _model(unsloth: Any, asked: Asked) -> Any:
    checkpointing = "unsloth" if asked.setting.get("checkpointing", True) else False
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(asked.lesson.base), max_seq_length=1024, load_in_4bit=False, use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    tuned = unsloth.FastLanguageModel.get_peft_model(
        model, r=asked.lesson.rank, lora_alpha=asked.lesson.alpha, lora_dropout=0, bias="none",
        target_modules=LAYERS, use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    return tuned, tokenizer


if __name__ == "__main__":
    lesson.answer(train(lesson.read()))
