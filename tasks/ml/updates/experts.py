"""LoRA on experts: transformers holds them as one tensor, the files have one or more a expert."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from tasks.ml.updates import Factors, Update, Updates
from tasks.ml.updates.empty_base import EmptyBase


def parts(layer: Any, empty: EmptyBase) -> Updates | None:
    """The updates of one layer's parameter by the files' names; None: the files have it as the model does.

    Shapes: the parameter (experts, rows, columns), its change L R with L (experts, rows, r) and R (experts, r, columns).
    Which rows of which expert a file's tensor holds is seen from the rows' numbers, taken apart as the parameter is.
    """
    if not isinstance(layer, ParamWrapper):
        return None
    module: Any = layer.get_base_layer()
    name = f"{empty.names[id(module)]}.{layer.parameter_name}"
    if empty.stored(name) is not None or layer.num_experts == 1:
        return None
    experts, rows, _ = getattr(module, layer.parameter_name).shape
    numbers = torch.arange(experts * rows).view(experts, rows, 1)
    apart: dict[str, Tensor] = revert_weight_conversion(empty.model, {name: numbers})
    return {part: _update(layer, found, rows) for part, found in apart.items()}


def _update(layer: Any, found: Tensor, rows: int) -> Update:
    """`found`: numbers of rows, of shape (rows, 1), or (1, rows) where the file has them turned."""
    expert, mine = int(found.flatten()[0]) // rows, found.flatten() % rows
    factors = Factors(partial(_halves, layer, expert, mine), whole=True, turned=found.shape[0] == 1)

    def add(before: Tensor) -> Tensor:
        left, right = factors.halves()
        return before + ((left @ right).T if factors.turned else left @ right)

    return Update(add, factors=factors)


def _halves(layer: Any, expert: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """s L of some rows of one expert, and R, in float32."""
    left, right, scale = layer.get_delta_factors(layer.active_adapters[0])
    return scale * left[expert][rows].detach().float(), right[expert].detach().float()
