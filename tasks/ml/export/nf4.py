"""NF4 by bitsandbytes: linear weights in 4 bits with double quantisation, for transformers and vLLM."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import ModelError

if TYPE_CHECKING:
    from tasks.core.sections import Engine
    from tasks.ml.export.recipe import Recipe, Remedy
    from tasks.ml.serving import Served

VARIANTS = ("",)
CARRIES = True
REMEDIES: tuple[Remedy, ...] = ("layers",)


def missing() -> str | None:
    return None if importlib.util.find_spec("bitsandbytes") else "pip install bitsandbytes"


def write(merged: Path, into: Path, _variant: str, recipe: Recipe) -> dict[str, Any]:
    """Quantise, save, and look at what was saved: some tools merge and silently do not quantise.

    The head stays as it is, and so do embeddings, which are no linear layers.
    """
    from tasks.ml import loading
    from tasks.ml.export import companions

    model = loading.load(merged, loading.compute_dtype("auto"), held="nf4", keep=recipe.keep)
    packed = sum(1 for module in model.modules() if type(module).__name__ == "Linear4bit")
    loading.forget_path(model)
    with loading.writing(into):
        model.save_pretrained(into)
    companions.copy(merged, into)
    if not packed or '"quantization_config"' not in (into / "config.json").read_text(encoding="utf-8"):
        raise ModelError(f"{merged}: no linear layer was quantised to NF4")
    return {"quantised_layers": packed}


def load(folder: Path, engine: Engine = "auto") -> Served:
    from tasks.ml import serving

    return serving.exported(folder, engine)
