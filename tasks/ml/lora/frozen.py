"""A fresh LoRA beside one that is frozen, as one plain LoRA: [B1 s1/s | B] [A1 ; A] with the fresh one's scale s.

The concatenation is exact, so that what is saved has the logits of training on the original base. A1 and B1 are buffers:
they neither train nor weigh in the norm of the gradients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tasks.core import weights
from tasks.core.errors import ParamsError
from tasks.ml.lora import patterns
from tasks.ml.tuned import Tuned
from tasks.ml.updates import lora

ADAPTER = "default"
MERGED = "fetch.keep: merged"


class _Joined(nn.Module):
    """The frozen half before the one that trains, along the rank."""

    def __init__(self, frozen: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("frozen", frozen, persistent=False)
        self._dim = dim

    def forward(self, fresh: Tensor) -> Tensor:
        return torch.cat([self.get_buffer("frozen"), fresh], dim=self._dim)


def join(tuned: Tuned, folder: Path) -> Tuned:
    """What `tuned` trains, with the plain LoRA of the folder frozen beside it.

    ParamsError: the method is no plain LoRA, or leaves out layers that the frozen one changes.
    """
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_bytes())
    left = load_file(folder / "adapter_model.safetensors")
    layers = dict(_layers(tuned.runner.model))
    for name, layer in layers.items():
        halves = [left.pop(f"{lora.PREFIX}{name}.lora_{half}.weight", None) for half in ("A", "B")]
        if halves[0] is not None and halves[1] is not None:
            _put(layer, halves[0], halves[1], lora.scale(config, name, len(halves[0])))
    if left:
        name = next(iter(left)).removeprefix(lora.PREFIX).partition(".lora_")[0]
        raise ParamsError(f"train.targets leaves out {name}, which the frozen adapter changes: add it, or set {MERGED}")
    scales = {name: layer.scaling[ADAPTER] for name, layer in layers.items()}
    rooted = any(layer.use_rslora[ADAPTER] for layer in layers.values())

    def save(into: Path) -> None:
        tuned.save(into)
        describe(into, scales, rooted=rooted)

    return replace(tuned, save=save)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every LoRA layer by its name, each checked to be plain."""
    found = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
    for name, layer in found:
        any_layer: Any = layer
        if not isinstance(any_layer.lora_A, nn.ModuleDict) or any_layer.lora_variant:
            raise ParamsError(f"fetch.keep=frozen goes with plain LoRA only, and {name} is more: set {MERGED}")
        if not isinstance(any_layer.lora_dropout[ADAPTER], nn.Identity):
            raise ParamsError(
                f"train.options.dropout would drop from the frozen adapter as well: set it to 0, or {MERGED}"
            )
    if not found or hasattr(model, "prompt_encoder"):  # with a prompt before it, it is saved as two adapters
        raise ParamsError(f"fetch.keep=frozen goes with plain LoRA only, and train.method is another: set {MERGED}")
    yield from found


def _put(layer: Any, a: Tensor, b: Tensor, scale: float) -> None:
    ratio = scale / layer.scaling[ADAPTER]
    for half, frozen, dim in ((layer.lora_A[ADAPTER], a, 0), (layer.lora_B[ADAPTER], b.float() * ratio, 1)):
        held = frozen.to(half.weight.device, half.weight.dtype)
        parametrize.register_parametrization(
            half, "weight", _Joined(held, dim), unsafe=True
        )  # unsafe: the shape changes


def describe(folder: Path, scales: Mapping[str, float], *, rooted: bool) -> None:
    """Ranks as saved, and alphas that give every layer the scale that it had."""
    places = weights.header(folder / "adapter_model.safetensors")
    ranks = {name: places[f"{lora.PREFIX}{name}.lora_A.weight"].shape[0] for name in scales}
    alphas = {name: scale * (math.sqrt(ranks[name]) if rooted else ranks[name]) for name, scale in scales.items()}
    rank, alpha = max(ranks.values()), max(alphas.values())
    file = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(file.read_bytes())
    config |= {"r": rank, "rank_pattern": patterns.pattern(ranks, rank)}
    config |= {"lora_alpha": alpha, "alpha_pattern": patterns.pattern(alphas, alpha)}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
