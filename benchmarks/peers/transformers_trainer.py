"""What the peers that train with `transformers.Trainer` have in common. Imported by their interpreters only."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.lesson import Asked, Clock, Lesson


def arguments(asked: Asked) -> dict[str, Any]:
    """The lesson as `TrainingArguments`: nothing here is about speed. All else is the trainer's default."""
    lesson = asked.lesson
    return {
        "output_dir": str(asked.out / "run"), "per_device_train_batch_size": lesson.rows_a_step,
        "max_steps": lesson.steps, "learning_rate": lesson.learning_rate, "lr_scheduler_type": "constant",
        "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": lesson.max_grad_norm, "use_cpu": lesson.device == "cpu",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip


def columns(lesson: Lesson) -> dict[str, Any]:
    return {"input_ids": [row.ids for row in lesson.rows], "labels": [row.labels for row in lesson.rows]}


def timed(clock: Clock) -> Any:
    """A callback that keeps the clock."""
    from transformers import TrainerCallback

    class Timed(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end_step()

    return Timed()


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def begin_with(model: Any, lesson: Lesson) -> None:
    """Give a PEFT model the lesson's initial weights. Exits where one of its trainable tensors is not among them."""
    import sys

    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(lesson.adapter / "adapter_model.safetensors")
    outcome = set_peft_model_state_dict(model, weights)
    trainable = sum(1 for _, value in model.named_parameters() if value.requires_grad)
    if outcome.unexpected_keys or trainable != len(weights):
        sys.exit(f"{len(weights)} initial tensors for {trainable} trainable ones: another adapter than the lesson's")
