"""The way by transformers, for what is not read here: it loads the whole model to write it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tasks.core.errors import ModelError
from tasks.ml import loading

_FAULTS = (ValueError, KeyError, IndexError, EOFError, NotImplementedError, RuntimeError, TypeError, AttributeError)
"""What transformers raises for a file that it does not know how to read."""


def write_tokenizer(file: Path, into: Path) -> None:
    """ModelError: transformers knows no such tokenizer."""
    try:
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(into)
    except _FAULTS as error:
        raise ModelError(f"{file}: transformers can't read its tokenizer: {error}") from None


def write_model(file: Path, into: Path) -> None:
    """Write config and weights. ModelError: transformers knows no such architecture."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except _FAULTS as error:
        raise ModelError(f"{file}: transformers can't read its model: {error}") from None
    _forget_quantisation(model)
    with loading.writing(into):
        model.save_pretrained(into)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain by now, but `save_pretrained` refuses as long as these say otherwise."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    loading.forget_path(model)
