"""A prompt learner together with LoRA: both train at once, the one before the rows, the other in the layers.

Saved are two adapters in PEFT's own format, in folders of their own so that none passes for the whole: `lora/`, which
PEFT loads on the base, and `prompt/`, which it then loads on that.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import ModelError
from tasks.core.sections import TrainParams
from tasks.ml import loading, own_adapter, prompts
from tasks.ml.lora import attachment
from tasks.ml.lora.sections import LoraOptions
from tasks.ml.prompt_options import PromptOptions
from tasks.ml.tuned import Ahead, Runner, Tuned

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.config import PromptLearningConfig
    from transformers import PreTrainedModel

LORA, PROMPT = "lora", "prompt"
"""The folders, in the order in which they are loaded."""


def attach(
    model: PreTrainedModel, config: PromptLearningConfig, params: TrainParams, options: PromptOptions, ahead: Ahead
) -> tuple[Tuned, PeftModel]:
    """The learner before the model and, where the options ask for it, a plain LoRA in its layers.

    ParamsError: there is no room before the longest row, or the LoRA can't fit.
    """
    if not options.lora:
        return prompts.attach(model, config, ahead.train)
    describe = own_adapter.describer(model, "parts", params.method, options)
    inside = attachment.attach(model, params, LoraOptions(), ahead)
    with _on_another():
        tuned, learner = prompts.attach(inside.runner.model, config, ahead.train)

    def save(folder: Path) -> None:
        for name, part in ((LORA, inside), (PROMPT, tuned)):
            (folder / name).mkdir()
            part.save(folder / name)
        describe(folder)

    return replace(tuned, save=save), learner


def load(model: PreTrainedModel, folder: Path) -> Runner:
    """The model with both on it. ModelError: one is missing or does not fit."""
    for part in (LORA, PROMPT):
        if not (folder / part / "adapter_config.json").is_file():
            raise ModelError(f"{folder} has no adapter in {part}/: restore the adapter, or train it again")
    inside = loading.with_adapter(model, folder / LORA)
    with _on_another():
        return loading.with_adapter(inside.model, folder / PROMPT)


@contextmanager
def _on_another() -> Generator[None]:
    """PEFT warns of a second adapter, which is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT for a second time")
        yield
