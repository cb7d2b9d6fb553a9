"""Delta-LoRA: after some steps W, too, moves, by a share of each step's change of B A (Zi et al. 2023, arXiv 2309.02411).

Saved in PEFT's format as a plain LoRA of twice the rank on the untouched base, which it exactly is
(tasks/ml/layers/delta.py). No dropout, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tasks.core.sections import Section, Share, TrainParams

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from tasks.ml.layers.delta import Delta
    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Moment, Tuned


class Options(Section):
    ratio: Annotated[float, Field(gt=0, le=100, description="of W's movement to B A's; the paper's lambda")] = 0.5
    start: Annotated[Share, Field(description="of the steps, before W moves; the paper's K")] = 0.1


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, ahead: Ahead) -> Tuned:
    """A and B beside every target layer. W moves from the step after K + 1 on: Algorithm 1 counts from 0 and asks t > K."""
    from tasks.ml import loading, targets
    from tasks.ml.layers.delta import Delta
    from tasks.ml.tuned import Runner, Tuned

    chosen = targets.choose(model, params)
    settings = _settings(model, params, options, chosen)
    layers: dict[str, Delta] = {}
    for name in chosen:
        layer = Delta(model.get_submodule(name), params.rank, params.alpha / params.rank, options.ratio, model.dtype)
        layers[name] = layer
        model.set_submodule(name, layer)
    first = int(ahead.steps * options.start) + 1

    def after(moment: Moment) -> Sequence[str]:
        if moment.step == first < moment.steps:
            for layer in layers.values():
                layer.keep()
        return ()

    loading.forget_path(model)
    return Tuned(
        Runner.of(model), partial(_save, layers, settings), after=after,
        state=partial(_state, layers), restore=partial(_restore, layers),
    )  # fmt: skip


def _settings(model: PreTrainedModel, params: TrainParams, options: Options, chosen: list[str]) -> dict[str, Any]:
    """PEFT's config, but for rank and alpha, which double once W has moved."""
    from transformers.pytorch_utils import Conv1D

    from tasks.ml import targets

    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in chosen)
    return {
        "r": params.rank, "lora_alpha": params.alpha, "target_modules": targets.compact(model, chosen),
        "task_type": "CAUSAL_LM", "fan_in_fan_out": transposed, "inference_mode": True,
    }  # fmt: skip


def _state(layers: Mapping[str, Delta]) -> Mapping[str, Tensor]:
    kept = {name: layer.kept for name, layer in layers.items() if layer.kept is not None}
    return {f"{name}.{half}": value for name, pair in kept.items() for half, value in zip("AB", pair, strict=True)}


def _restore(layers: Mapping[str, Delta], tensors: Mapping[str, Tensor]) -> None:
    for name, layer in layers.items():
        pair = [tensors[f"{name}.{half}"].to(layer.lora_A) for half in "AB"] if tensors else None
        layer.kept = (pair[0], pair[1]) if pair else None


def _save(layers: Mapping[str, Delta], settings: Mapping[str, Any], folder: Path) -> None:
    from peft import LoraConfig

    from tasks.ml import peft_tuned

    tensors: dict[str, Tensor] = {}
    changes: dict[str, Any] = {}
    for name, layer in layers.items():
        down, up, outer = layer.halves()
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        changes = {"r": len(down), "lora_alpha": outer * len(down)}
    peft_tuned.write(LoraConfig(**{**settings, **changes}), tensors, folder)
