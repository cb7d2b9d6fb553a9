"""GPTQ by llm-compressor: 4 bits a weight, each column's rounding error carried into those not yet rounded.

Frantar et al. 2022, arXiv 2210.17323. Symmetric, a scale a group of 128 weights, or of the 64 or 32 that divide every
width; it learns from the calibration rows. Embeddings and head stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.ml import compressed

if TYPE_CHECKING:
    from tasks.core.sections import Engine
    from tasks.ml.export.recipe import Recipe, Remedy
    from tasks.ml.serving import Served

VARIANTS = ("",)
CARRIES = False
REMEDIES: tuple[Remedy, ...] = ("layers",)


def missing() -> str | None:
    return compressed.missing()


def write(merged: Path, into: Path, _variant: str, recipe: Recipe) -> dict[str, Any]:
    return compressed.write(merged, into, "gptq", recipe)


def load(folder: Path, engine: Engine = "auto") -> Served:
    from tasks.ml import serving

    return serving.exported(folder, engine)
