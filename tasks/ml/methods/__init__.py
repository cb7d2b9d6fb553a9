"""Fine-tuning methods: one file each, found by its name, and PEFT's tuners that need no file of their own
(`tasks/ml/peft_table.py`). Nothing here imports torch at its top, so that names and options can be checked before
anything runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import ValidationError

from tasks.core.errors import ParamsError
from tasks.core.params import complaints, nearest
from tasks.core.sections import Section, TrainParams
from tasks.ml import peft_method
from tasks.ml.peft_table import ABSENT, TUNERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.tuned import Ahead, Tuned

Base = Literal["plain", "nf4", "int8", "packed"]


class Method(Protocol):
    """What a method's file defines."""

    Options: type[Section]
    """The closed section of `train.options`."""

    def base(self, options: Any) -> Base:
        """How the frozen base is held while it trains."""
        ...

    def attach(self, model: PreTrainedModel, params: TrainParams, options: Any, ahead: Ahead) -> Tuned:
        """Put fresh trainable parameters on the frozen model. ParamsError: they can't fit it."""
        ...


def known() -> list[str]:
    return sorted({*files(), *TUNERS})


def files() -> list[str]:
    """Methods with a file of their own."""
    return [file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__"]


def find(params: TrainParams) -> tuple[Method, Any]:
    """The method and its options. ParamsError: no such method or option; the message lists those there are."""
    method = _method(params)
    try:
        return method, method.Options.model_validate(params.options)
    except ValidationError as error:
        said = "; ".join(complaints(error, method.Options, "train.options"))
        raise ParamsError(f"train.method={params.method}: {said}") from None


def _method(params: TrainParams) -> Method:
    name = params.method
    if name in files():
        return cast("Method", importlib.import_module(f"tasks.ml.methods.{name}"))
    if name in TUNERS:
        return cast("Method", peft_method.find(name, params.options))
    if name in ABSENT:
        raise ParamsError(f"train.method={name}: PEFT has it, tuneline has not: {ABSENT[name]}")
    raise ParamsError(f"train.method: unknown method {name!r};{nearest(name, known())} known: {', '.join(known())}")
