"""LoRA put on a frozen model, and what its layers start from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.core.sections import TrainParams
from tasks.ml import peft_tuned, targets
from tasks.ml.lora import beside, importance, offset, patterns, plan, sample, starts
from tasks.ml.lora.plan import Plan
from tasks.ml.lora.sections import LoraOptions
from tasks.ml.tuned import Ahead, Tuned

PEFTS = ("gaussian", "orthogonal")
"""Starts that PEFT makes while it attaches; all others begin as its default, Kaiming, and are set afterwards."""


def attach(
    model: PreTrainedModel, params: TrainParams, options: LoraOptions, ahead: Ahead, *, dora: bool = False
) -> Tuned:
    """Trainable A and B beside every target layer. ParamsError: they can't fit the model."""
    planned = plan.make(model, params, options, ahead, dora=dora)
    folder, compute = Path(model.name_or_path or ""), model.dtype
    config = _config(model, params, options, planned)
    seen = _look(model, config, options, planned, ahead)
    wrapped = peft_tuned.attach(model, config)
    layers = dict(_layers(wrapped))
    for layer in layers.values():  # beside a quantised weight PEFT makes them float32
        layer.lora_A.to(compute)
        layer.lora_B.to(compute)
    for name, layer in layers.items():
        _start(layer, options.init, name, planned.ranks[name], seen, folder)
    if dora:
        _magnitudes(layers.values())
    config.init_lora_weights = True  # what is saved lies on the original base, however it began
    if config.ensure_weight_tying:  # PEFT takes the head out of the list that is saved, and then ties nothing on reload
        config.modules_to_save = sorted({*(config.modules_to_save or ()), "lm_head"})
    tuned = peft_tuned.of(wrapped)
    bare = tuned.runner.model
    return replace(tuned, state=lambda: offset.starts(bare), restore=lambda saved: offset.restore(bare, saved))


def _config(model: PreTrainedModel, params: TrainParams, options: LoraOptions, planned: Plan) -> LoraConfig:
    wider, layers = planned.width, targets.linear(model)
    alpha = math.sqrt(wider) if options.rslora else wider  # keeps the scale of a pair that is `wider` times as wide
    ranks = {name: rank * wider for name, rank in planned.ranks.items()}
    alphas = {name: value * alpha for name, value in planned.alphas.items()}
    settings: dict[str, Any] = {
        "r": params.rank * wider, "rank_pattern": patterns.pattern(ranks, params.rank * wider),
        "lora_alpha": params.alpha * alpha, "alpha_pattern": patterns.pattern(alphas, params.alpha * alpha),
        "lora_dropout": options.dropout, "use_rslora": options.rslora, "use_dora": planned.dora,
        "init_lora_weights": options.init if options.init in PEFTS else True,
        "target_modules": targets.compact(model, list(ranks)),
        "fan_in_fan_out": any(isinstance(layers[name], Conv1D) for name in ranks),
    }  # fmt: skip
    return LoraConfig(task_type="CAUSAL_LM", **settings, **beside.settings(model, options, list(ranks)))


def _layers(wrapped: Any) -> Iterator[tuple[str, Any]]:
    for name, module in wrapped.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            yield name, module


def _look(
    model: PreTrainedModel, config: LoraConfig, options: LoraOptions, planned: Plan, ahead: Ahead
) -> dict[str, Any]:
    """By layer, what the start needs to know of the training set: PEFT's EVA components or CorDA decompositions."""
    names = list(planned.ranks)
    if options.init == "eva":
        packs = sample.take(ahead.train, options.sample)
        return sample.components(model, names, packs, max(planned.ranks.values()))
    if options.init.startswith("corda"):
        settings: dict[str, Any] = {
            "r": config.r // planned.width, "target_modules": config.target_modules, "init_lora_weights": "corda",
            "rank_pattern": {key: rank // planned.width for key, rank in (config.rank_pattern or {}).items()},
            "corda_config": CordaConfig(corda_method="kpm" if options.init == "corda_kpm" else "ipm"),
        }  # fmt: skip
        packs = sample.take(ahead.train, options.sample)
        preprocess_corda(model, LoraConfig(**settings), run_model=lambda: sample.run(model, packs))
        layers: dict[str, Any] = targets.linear(model)
        return {name: layers[name].__dict__.pop("eigens") for name in names}
    return {}


def _start(layer: Any, init: str, name: str, rank: int, seen: dict[str, Any], folder: Path) -> None:
    scale, base = layer.scaling["default"], layer.get_base_layer()
    if init == "xavier":
        nn.init.xavier_uniform_(layer.lora_A["default"].weight)
    elif init == "eva":
        _set(layer, seen[name][:rank], torch.zeros(()))
    elif init == "loftq":
        original = starts.original(folder, name, transposed=issubclass(base.source_cls, Conv1D))
        _set(layer, *starts.loftq(original, importance.matrix(base), rank, scale))
    elif init == "olora":
        offset.start(layer, *starts.olora(importance.matrix(base), rank))
    elif init.startswith("corda"):
        offset.start(layer, *starts.corda(seen[name], scale))
    elif init.startswith("pissa"):
        iterations = int(init.rpartition("_")[2]) if "_niter_" in init else 0
        offset.start(layer, *starts.pissa(importance.matrix(base), rank, scale, iterations))


def _set(layer: Any, a: Tensor, b: Tensor) -> None:
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(a)
        layer.lora_B["default"].weight.copy_(b)


def _magnitudes(layers: Any) -> None:
    """Row norms of W + s B A in float32: in bfloat16 a trained magnitude does not move."""
    for layer in layers:
        a, b = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
        merged = importance.matrix(layer.get_base_layer()) + layer.scaling["default"] * (b @ a)
        layer.lora_magnitude_vector["default"].weight = nn.Parameter(merged.norm(dim=1).detach())
