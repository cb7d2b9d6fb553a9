"""Finished formats: one file each with `write(merged, into, ...)` and `load(folder)`, found by its name.

Neither this package nor a format's file imports torch at its top, so that `find` can refuse before anything runs.
A format's name is its file, or its file and a variant after the first dash: `gguf-f16` is `gguf.py` with `f16`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tasks.core.errors import ParamsError
from tasks.core.standing import BESIDE

if TYPE_CHECKING:
    from tasks.core.sections import Engine
    from tasks.ml.export.recipe import Recipe, Remedy
    from tasks.ml.serving import Served


class Format(Protocol):
    """What a format's file defines. `variant` is "" where the name has none."""

    VARIANTS: tuple[str, ...]
    CARRIES: bool
    """Whether an adapter that can't be merged may stand beside the weights: what loads the format can put it on."""
    REMEDIES: tuple[Remedy, ...]
    """What else can be tried where the format breaks the model, in this order."""

    def missing(self) -> str | None:
        """What to install before this format can be made, or None."""
        ...

    def write(self, merged: Path, into: Path, variant: str, recipe: Recipe) -> dict[str, Any]:
        """Make the format from a merged model folder; plain facts about it, equal for equal work."""
        ...

    def load(self, folder: Path, engine: Engine = "auto") -> Served:
        """The finished file in the runtime that serves it, from nothing but the folder. `engine`: which of them, where vLLM
        and transformers both do."""
        ...


def known() -> list[str]:
    files = {file.stem for file in Path(__file__).parent.glob("*.py")}
    return sorted(files - {"__init__", "companions", "merge", "recipe"})


def find(name: str) -> tuple[Format, str]:
    """The format's file and its variant. ParamsError: no such format, or what it needs is not installed."""
    stem, _, variant = name.partition("-")
    if stem not in known():
        raise ParamsError(f"quantize.formats: unknown format {name!r}; known: {', '.join(known())}")
    format = cast("Format", importlib.import_module(f"tasks.ml.export.{stem}"))
    if variant not in format.VARIANTS:
        choices = ", ".join(f"{stem}-{known}" if known else stem for known in format.VARIANTS)
        raise ParamsError(f"quantize.formats: unknown format {name!r}; {stem} comes as: {choices}")
    if missing := format.missing():
        raise ParamsError(f"quantize.formats: {name} is unavailable: {missing}")
    return format, variant


def carry(merged: Path, into: Path) -> None:
    """Take along the adapter that stands beside the weights of a folder that `merge` made."""
    from tasks.ml import beside

    beside.carry(merged / BESIDE, into)
