"""int8 by bitsandbytes: linear weights in 8 bits with a scale a row, outlying activations in 16, for transformers and vLLM.

Dettmers et al. 2022, arXiv 2208.07339. Embeddings and head stay as they are.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Quantise, save, and look at what was saved."""
    from tasks.ml import loading, saved

    saved.check_plain(merged)
    saved.write(loading.load(merged, saved.dtype(merged), held="int8", keep=recipe.keep), merged, into)
    return saved.look(merged, into, recipe.keep, bits=10)


def load(folder: Path, engine: Engine = "auto") -> Served:
    from tasks.ml import loading, serving

    return serving.of(loading.load(folder, loading.compute_dtype("auto")), folder)
