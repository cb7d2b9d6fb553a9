"""A GGUF file as a plain Hugging Face folder: weights unpacked to bfloat16, tokenizer and chat template kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tasks.core.errors import ModelError
from tasks.ml import loading


def dequantise(file: Path, into: Path) -> None:
    """Write `into` as `save_pretrained` would for a model that never was quantised.

    ModelError: transformers knows no such architecture, or the file is damaged.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, KeyError, IndexError, EOFError, NotImplementedError) as error:
        raise ModelError(f"{file} can't be read as a GGUF model: {error}") from None
    _forget_quantisation(model)
    with loading.writing(into):
        model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain by now, but `save_pretrained` refuses as long as these say otherwise."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    loading.forget_path(model)
