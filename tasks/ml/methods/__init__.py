"""Fine-tuning methods: one file each, found by its name. This package imports no torch, so that names can be checked first."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Method(Protocol):
    """What a method's file defines."""

    NF4_BASE: bool
    """Whether the frozen base is held in NF4."""

    def attach(self, model: PreTrainedModel, params: TrainParams) -> PeftModel:
        """Put fresh trainable parameters on the frozen model. ParamsError: they can't fit it."""
        ...


def known() -> list[str]:
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")


def check(name: str) -> None:
    """ParamsError: no such method; the message lists those there are."""
    if name not in known():
        raise ParamsError(f"train.method: unknown method {name!r}; known: {', '.join(known())}")


def find(name: str) -> Method:
    check(name)
    return cast("Method", importlib.import_module(f"tasks.ml.methods.{name}"))
