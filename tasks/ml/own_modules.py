"""Methods that put modules of their own into the model: they train, are saved, and are made again by `reload`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tasks.core.sections import Section
from tasks.ml import loading, own_adapter
from tasks.ml.tuned import Runner, Tuned


def tune(
    model: PreTrainedModel, method: str, options: Section,
    reload: Callable[[PreTrainedModel, Any], tuple[Runner, frozenset[str]]],
) -> Tuned:  # fmt: skip
    """Fresh modules in the frozen model; they alone, and what else `reload` names, train. `options`: resolved."""
    write = own_adapter.saver(model, "modules", method, options)
    runner, names = reload(model, options)
    chosen = {name: value for name, value in model.named_parameters() if name in names}
    for name, value in model.named_parameters():
        value.requires_grad_(name in chosen)

    def save(folder: Path) -> None:
        write(folder, chosen)

    loading.forget_path(model)
    return Tuned(runner, save)
