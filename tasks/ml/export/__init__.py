"""Finished formats: one file each with `write(merged, into) -> facts` and `load(folder, ...)`, found by its name.

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
    from transformers import PreTrainedModel

    from tasks.ml.tuned import Runner


class Format(Protocol):
    """What a format's file defines. `variant` is "" where the name has none."""

    VARIANTS: tuple[str, ...]
    CARRIES: bool
    """Whether an adapter that can't be merged may stand beside the weights: what loads the format can put it on."""

    def missing(self) -> str | None:
        """What to install before this format can be made, or None."""
        ...

    def write(self, merged: Path, into: Path, variant: str) -> dict[str, Any]:
        """Make the format from a merged model folder; plain facts about it."""
        ...

    def load(self, folder: Path) -> PreTrainedModel:
        """The finished file as a model that can be judged, from nothing but the folder; without an adapter beside it."""
        ...


def known() -> list[str]:
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in ("__init__", "merge"))


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


def load(name: str, folder: Path) -> Runner:
    """A finished format as it is served, with the adapter beside it where there is one."""
    from tasks.ml import loading
    from tasks.ml.tuned import Runner

    model = find(name)[0].load(folder)
    return loading.with_adapter(model, folder / BESIDE) if (folder / BESIDE).is_dir() else Runner.of(model)


def carry(merged: Path, into: Path) -> None:
    """Take along the adapter that stands beside the weights of a folder that `merge` made."""
    from tasks.ml import beside

    beside.carry(merged / BESIDE, into)
