"""LLaMA-Factory on a lesson: its own `run_sft` with a data set that is tokenised already (`tokenized_path`).

One row at a time in bfloat16, as in its own examples. SETTING: more of its arguments.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, by an interpreter that knows nothing of this one

from benchmarks.peers import lesson, transformers_trainer
from benchmarks.peers.lesson import Answer, Asked, Clock
from benchmarks.peers.llamafactory_prepare import without_sound


def train(asked: Asked) -> Answer:
    without_sound()
    from llamafactory.hparams import get_train_args  # pyright: ignore[reportMissingImports]
    from llamafactory.train.sft.workflow import run_sft  # pyright: ignore[reportMissingImports]

    clock, kept = Clock(asked.lesson), list[float]()
    _dataset(asked)
    model, data, training, finetuning, generating = get_train_args(_arguments(asked))
    callbacks = [transformers_trainer.timed(clock), _keep(kept)]
    run_sft(model, data, training, finetuning, generating, callbacks)
    return clock.answer(version("llamafactory"), kept)


def _keep(losses: list[float]) -> Any:
    """Its trainer is not handed out: the losses are taken as they are logged."""
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    return Keep()


def _dataset(asked: Asked) -> None:
    from datasets import Dataset, DatasetDict

    columns = transformers_trainer.columns(asked.lesson)
    columns["attention_mask"] = [[1] * len(ids) for ids in columns["input_ids"]]
    columns |= {name: [None] * len(asked.lesson.rows) for name in ("images", "videos", "audios")}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(asked.out / "rows"))


def _arguments(asked: Asked) -> dict[str, Any]:
    return transformers_trainer.arguments(asked) | {
        "model_name_or_path": str(asked.lesson.base), "adapter_name_or_path": str(asked.lesson.adapter),
        "dataset": "rows", "tokenized_path": str(asked.out / "rows"), "template": "smollm2", "cutoff_len": 1024,
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_target": "all", "disable_shuffling": True,
        "lora_rank": asked.lesson.rank, "lora_alpha": asked.lesson.alpha, "lora_dropout": 0.0,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": asked.lesson.rows_a_step, "bf16": True,
    } | asked.setting  # fmt: skip


if __name__ == "__main__":
    lesson.answer(train(lesson.read()))
