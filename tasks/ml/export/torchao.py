"""int4 and int8 weight-only by torchao: linear weights rounded to nearest, for transformers, vLLM and torch.compile.

int4: a scale and a zero a group of 64 weights, of 32 where the width asks for it. int8: a scale a row. Embeddings and
head stay as they are.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.core.sections import Engine
    from tasks.ml.export.recipe import Recipe, Remedy
    from tasks.ml.serving import Served

VARIANTS = ("int4", "int8")
CARRIES = False
REMEDIES: tuple[Remedy, ...] = ("layers",)


def missing() -> str | None:
    return None if importlib.util.find_spec("torchao") else "pip install 'tuneline[torchao]'"


def write(merged: Path, into: Path, variant: str, recipe: Recipe) -> dict[str, Any]:
    """Quantise, save, and look at what was saved. `left_layers` of the facts are too narrow for a group of 32."""
    from tasks.ml import int4, packed_linear

    packing = packed_linear.four(int4.by_range) if variant == "int4" else packed_linear.eight()
    return packed_linear.write(merged, into, recipe.keep, packing)


def load(folder: Path, engine: Engine = "auto") -> Served:
    from tasks.ml import loading, packed_linear, serving

    return serving.of(packed_linear.load(folder, loading.compute_dtype("auto")), folder)
