"""What a base that is itself quantised can't take."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from tasks.core.errors import ParamsError

NO_DORA = ("gptq", "awq", "eetq")


def method(model: PreTrainedModel) -> str | None:
    """How the base's weights are quantised: `bitsandbytes`, `gptq`, …; None: they are not."""
    found: Any = getattr(model.config, "quantization_config", None)
    if found is None:
        return None
    kind: Any = found["quant_method"] if isinstance(found, dict) else found.quant_method
    return str(getattr(kind, "value", kind))


def refuse(model: PreTrainedModel, init: str, *, dora: bool) -> None:
    """ParamsError: DoRA or this start on such a base; it says what works."""
    found = method(model)
    if dora and found in NO_DORA:
        raise ParamsError(
            f"DoRA needs the weights' norms, which PEFT can't take from a base in {found}: use train.method=lora on it, or "
            "train.method=qlora with options {dora: true} on the unquantised base"
        )
    if found is not None and init.startswith("corda"):
        raise ParamsError(
            f"train.options.init={init} decomposes the weights, and the base holds them in {found}: use eva"
        )
    if found is None and init == "loftq":
        raise ParamsError("train.options.init=loftq makes up for quantisation, and the base is not quantised")
