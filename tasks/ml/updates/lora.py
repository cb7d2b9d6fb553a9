"""LoRA and its kin as updates: W + s B A, DoRA's m (W + s B A) / |W + s B A|, AdaLoRA's W + s B (E A) / n, whole
tensors and single tokens that were trained beside them. From the adapter's files alone: PEFT takes 7 s to import."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml import tensors
from tasks.ml.lora import plain
from tasks.ml.tensors import Stored
from tasks.ml.updates import Factors, Update, Updates

PREFIX, FILE = "base_model.model.", "adapter_model.safetensors"
PARTS = (
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_A", "lora_B", "lora_E",
    "token_adapter.trainable_tokens_delta", "trainable_tokens_delta",
)  # fmt: skip
"""What may stand behind a layer's name; any other name is that of a whole tensor."""
STARTS = ("gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base as it was; others also change it, and PEFT has to repeat them."""
EPSILON = 1e-5
"""PEFT's, beside AdaLoRA's number of ranks."""


def updates(config: Mapping[str, Any], adapter: Path) -> Updates | None:
    """None where the adapter is of another kin. ModelError: a part of it is missing or not finite."""
    if not _is_kin(config):
        return None
    layers: dict[str, dict[str, Stored]] = {}
    for name, part in tensors.finite(adapter / FILE).items():
        layer, kind = _split(name.removeprefix(PREFIX))
        if "lora_" in layer:
            return None
        layers.setdefault(layer, {})[kind] = part
    return dict(pair for layer, found in layers.items() for pair in _layer(config, adapter, layer, found))


def _is_kin(config: Mapping[str, Any]) -> bool:
    if config["peft_type"] not in ("LORA", "ADALORA"):
        return config["peft_type"] == "TRAINABLE_TOKENS"
    start = config["init_lora_weights"]
    return (start in STARTS or not isinstance(start, str)) and not any(config.get(name) for name in plain.VARIANTS)


def _split(name: str) -> tuple[str, str]:
    """A layer's name and the part of an adapter behind it; a whole tensor's name is the layer's, the part empty."""
    for part in PARTS:
        if name.endswith("." + part):
            return name.removesuffix("." + part), part
    return name.replace(".base_layer.", "."), ""


def _layer(
    config: Mapping[str, Any], adapter: Path, layer: str, parts: Mapping[str, Stored]
) -> Iterator[tuple[str, Update]]:
    """One layer's updates."""
    if "lora_B.weight" in parts and ("lora_magnitude_vector" in parts) != config["use_dora"]:
        raise ModelError(f"{adapter}: {layer} has a magnitude where its config has no DoRA, or the other way round")
    match sorted(parts):
        case [""]:
            yield layer, Update(partial(_replace, layer, parts[""]), alone=True)
        case ["lora_A.weight", "lora_B.weight", *more] if set(more) <= {"lora_magnitude_vector"}:
            yield f"{layer}.weight", _adding(config, layer, parts)
        case ["lora_A.weight", "lora_B.bias", "lora_B.weight"]:
            times = scale(config, layer, parts["lora_A.weight"].shape[0])
            yield f"{layer}.weight", _adding(config, layer, parts)
            yield f"{layer}.bias", Update(partial(_add_bias, layer, parts["lora_B.bias"], times))
        case ["lora_A", "lora_B", "lora_E"]:
            times = (config["lora_alpha"] or config["init_r"]) / (config["init_r"] + EPSILON)
            halves = partial(_triplet, times, parts["lora_A"], parts["lora_B"], parts["lora_E"])
            yield f"{layer}.weight", _of_factors(layer, Factors(halves, whole=True, turned=_turned(config)))
        case [("token_adapter.trainable_tokens_delta" | "trainable_tokens_delta") as part]:
            yield f"{layer}.weight", Update(partial(_set_rows, layer, _tokens(config, adapter, layer), parts[part]))
        case _:
            raise ModelError(f"{adapter}: the adapter of {layer} is missing a half (it has {', '.join(sorted(parts))})")


def _adding(config: Mapping[str, Any], layer: str, parts: Mapping[str, Stored]) -> Update:
    a, b, magnitude = parts["lora_A.weight"], parts["lora_B.weight"], parts.get("lora_magnitude_vector")
    halves = partial(_pair, scale(config, layer, a.shape[0]), a, b)
    return _of_factors(layer, Factors(halves, whole=magnitude is None, turned=_turned(config)), magnitude)


def _of_factors(layer: str, factors: Factors, magnitude: Stored | None = None) -> Update:
    return Update(partial(_add, layer, factors, magnitude), factors=factors)


def _pair(times: float, a: Stored, b: Stored) -> tuple[Tensor, Tensor]:
    """s B and A, in float32."""
    return times * b.read().float(), a.read().float()


def _triplet(times: float, a: Stored, b: Stored, e: Stored) -> tuple[Tensor, Tensor]:
    """s P and Lambda Q of AdaLoRA, in float32."""
    return times * b.read().float(), a.read().float() * e.read().float()


def scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) (rsLoRA, arXiv 2312.03732), alpha by the first pattern that fits the layer's name."""
    fitting = (alpha for key, alpha in (config["alpha_pattern"] or {}).items() if re.match(rf"(.*\.)?({key})$", layer))
    alpha = next(fitting, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config["use_rslora"] else rank)


def _turned(config: Mapping[str, Any]) -> bool:
    """Whether the base stores its matrices as (inputs, outputs), as GPT-2 does."""
    return bool(config["fan_in_fan_out"])


def _tokens(config: Mapping[str, Any], adapter: Path, layer: str) -> list[int]:
    """The rows that the layer's tokens have in its weight."""
    chosen: Any = config["token_indices"] if "token_indices" in config else config["trainable_token_indices"]
    for name, rows in chosen.items() if isinstance(chosen, dict) else [(layer, chosen)]:
        if f".{layer}".endswith(f".{name}"):
            return rows
    raise ModelError(f"{adapter}: adapter_config.json does not say which tokens of {layer} were trained")


def _replace(name: str, value: Stored, before: Tensor) -> Tensor:
    same_shape(name, value.shape, before)
    return value.read().float()


def _add_bias(layer: str, bias: Stored, times: float, before: Tensor) -> Tensor:
    same_shape(f"{layer}.bias", bias.shape, before)
    return before + times * bias.read().float()


def _add(layer: str, factors: Factors, magnitude: Stored | None, before: Tensor) -> Tensor:
    """W + s B A, its rows brought to `magnitude` where there is one (DoRA, arXiv 2402.09353, equation 5).

    Shapes: a (r, inputs), b (outputs, r), magnitude (outputs), before (outputs, inputs), or the other way if `turned`.
    """
    b, a = factors.halves()
    weight = before.T if factors.turned else before
    same_shape(f"{layer}.weight", (len(b), a.shape[-1]), weight)
    after = weight + b @ a
    if magnitude is not None:
        after *= (magnitude.read().float() / after.norm(dim=1)).unsqueeze(1)
    return (after.T if factors.turned else after).contiguous()


def _set_rows(layer: str, tokens: list[int], rows: Stored, before: Tensor) -> Tensor:
    if len(tokens) != rows.shape[0] or max(tokens) >= len(before) or rows.shape[1] != before.shape[1]:
        raise ModelError(f"{layer}: {len(tokens)} tokens with rows of {rows.shape} in {tuple(before.shape)}")
    after = before.clone()
    after[tokens] = rows.read().float()
    return after


def same_shape(name: str, change: tuple[int, ...], weight: Tensor) -> None:
    """ModelError: an update of this shape does not fit the base's tensor."""
    if tuple(weight.shape) != change:
        raise ModelError(f"{name}: the adapter's change is {change}, the base's weight {tuple(weight.shape)}")
