"""Which layers a method changes: names, a regular expression or `all-linear`, resolved and checked on the model itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams


def linear(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer but the head, by its full name; GPT-2's Conv1D is one, with its weight transposed."""
    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds) and module is not head}


def sides(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def choose(model: PreTrainedModel, params: TrainParams) -> list[str]:
    """Full names of the layers that `train.targets` means, in the model's order.

    ParamsError: a target matches nothing (the nearest is named), or the rank is above a layer's smaller side.
    """
    chosen = named(model, params)
    check_ranks(model, dict.fromkeys(chosen, params.rank), "train.rank")
    return chosen


def named(model: PreTrainedModel, params: TrainParams) -> list[str]:
    """As `choose`, without a look at the rank: for methods that give each layer its own, or need none."""
    layers = list(linear(model))
    chosen = set(layers) if params.targets == "all-linear" else matching(layers, params.targets)
    return [name for name in layers if name in chosen]


def check_ranks(model: PreTrainedModel, ranks: Mapping[str, int], where: str) -> None:
    """ParamsError: the rank of a layer, by its full name, is above its smaller side."""
    layers = linear(model)
    for name, rank in ranks.items():
        if rank > min(sides(layers[name])):
            inputs, outputs = sides(layers[name])
            raise ParamsError(
                f"{where}={rank} is above the smaller side of {name} ({outputs}x{inputs}): choose a lower rank"
            )


def compact(model: PreTrainedModel, chosen: list[str]) -> list[str]:
    """Last parts of the names where they mean just these layers, as servers expect them; else the full names."""
    suffixes = {name.rpartition(".")[2] for name in chosen}
    meant = [name for name in linear(model) if name.rpartition(".")[2] in suffixes]
    return sorted(suffixes) if meant == chosen else chosen


def matching(names: list[str], targets: str | tuple[str, ...], what: str = "linear layer") -> set[str]:
    """Those of the names that the targets mean: last parts, whole names, or one regular expression of whole names.

    ParamsError: a target matches nothing; it names the nearest.
    """
    suffixes = sorted({name.rpartition(".")[2] for name in names})
    chosen: set[str] = set()
    for target in (targets,) if isinstance(targets, str) else targets:
        hits = {name for name in names if name == target or name.endswith("." + target) or _fits(target, name, targets)}
        if not hits:
            near = difflib.get_close_matches(target, suffixes, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ParamsError(f"train.targets: no {what} is called {target!r}; {hint}There are: {', '.join(suffixes)}")
        chosen |= hits
    return chosen


def _fits(pattern: str, name: str, targets: str | tuple[str, ...]) -> bool:
    """A single text may be a regular expression of full names, as in PEFT."""
    if not isinstance(targets, str):
        return False
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ParamsError(f"train.targets: {pattern!r} is no regular expression: {error}") from None
