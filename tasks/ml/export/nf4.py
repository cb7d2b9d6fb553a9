"""NF4 by bitsandbytes: linear weights in 4 bits with double quantisation, for transformers and vLLM."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VARIANTS = ("",)
CARRIES = True


def missing() -> str | None:
    return None if importlib.util.find_spec("bitsandbytes") else "pip install bitsandbytes"


def write(merged: Path, into: Path, variant: str) -> dict[str, Any]:
    """Quantise, save, and look at what was saved: some tools merge and silently do not quantise."""
    from tasks.ml import loading

    model = loading.load(merged, loading.compute_dtype("auto"), held="nf4")
    packed = sum(1 for module in model.modules() if type(module).__name__ == "Linear4bit")
    loading.forget_path(model)
    with loading.writing(into):
        model.save_pretrained(into)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (merged / name).is_file():
            shutil.copyfile(merged / name, into / name)
    if not packed or '"quantization_config"' not in (into / "config.json").read_text(encoding="utf-8"):
        raise ModelError(f"{merged}: no linear layer was quantised to NF4")
    return {"quantised_layers": packed}


def load(folder: Path) -> PreTrainedModel:
    from tasks.ml import loading

    return loading.load(folder, loading.compute_dtype("auto"))
