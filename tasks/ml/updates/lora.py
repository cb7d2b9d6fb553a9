"""LoRA and its kin as updates: W + s B A, DoRA's m (W + s B A) / |W + s B A|, AdaLoRA's W + s B (E A) / n, whole
tensors and single tokens that were trained beside them. From the adapter's files alone: PEFT takes 7 s to import."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.core.errors import ModelError
from tasks.ml.lora import plain
from tasks.ml.updates import Factors, Update, Updates

PREFIX = "base_model.model."
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
    try:
        tensors = load_file(adapter / "adapter_model.safetensors")
    except (SafetensorError, FileNotFoundError) as error:
        raise ModelError(f"{adapter}: {error}: train it again") from None
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ModelError(f"{adapter}: {name} is not finite")
        layer, part = _split(name.removeprefix(PREFIX))
        if "lora_" in layer:
            return None
        layers.setdefault(layer, {})[part] = value
    if not layers:
        raise ModelError(f"{adapter} holds no tensors")
    return dict(pair for layer, parts in layers.items() for pair in _layer(config, adapter, layer, parts))


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
    config: Mapping[str, Any], adapter: Path, layer: str, parts: Mapping[str, Tensor]
) -> Iterator[tuple[str, Update]]:
    """One layer's updates."""
    if "lora_B.weight" in parts and ("lora_magnitude_vector" in parts) != config["use_dora"]:
        raise ModelError(f"{adapter}: {layer} has a magnitude where its config has no DoRA, or the other way round")
    match sorted(parts):
        case [""]:
            yield layer, Update(partial(_replace, layer, parts[""]), alone=True)
        case ["lora_A.weight", "lora_B.weight", *more] if set(more) <= {"lora_magnitude_vector"}:
            a, b, m = parts["lora_A.weight"], parts["lora_B.weight"], parts.get("lora_magnitude_vector")
            yield f"{layer}.weight", _adding(layer, a, b, m, scale(config, layer, len(a)), _turned(config))
        case ["lora_A.weight", "lora_B.bias", "lora_B.weight"]:
            a, b, bias = parts["lora_A.weight"], parts["lora_B.weight"], parts["lora_B.bias"]
            times = scale(config, layer, len(a))
            yield f"{layer}.weight", _adding(layer, a, b, None, times, _turned(config))
            yield f"{layer}.bias", Update(lambda before: before + times * bias.float())
        case ["lora_A", "lora_B", "lora_E"]:
            a, b = parts["lora_A"].float() * parts["lora_E"].float(), parts["lora_B"]
            times = (config["lora_alpha"] or config["init_r"]) / (config["init_r"] + EPSILON)
            yield f"{layer}.weight", _adding(layer, a, b, None, times, _turned(config))
        case [("token_adapter.trainable_tokens_delta" | "trainable_tokens_delta") as part]:
            yield f"{layer}.weight", Update(partial(_set_rows, layer, _tokens(config, adapter, layer), parts[part]))
        case _:
            raise ModelError(f"{adapter}: the adapter of {layer} is missing a half (it has {', '.join(sorted(parts))})")


def _adding(layer: str, a: Tensor, b: Tensor, magnitude: Tensor | None, times: float, turned: bool) -> Update:
    factors = Factors(times * b.float(), a.float(), whole=magnitude is None, turned=turned)
    return Update(partial(_add, layer, a, b, magnitude, times, turned), factors=factors)


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


def _replace(name: str, value: Tensor, before: Tensor) -> Tensor:
    _same_shape(name, value, before)
    return value.float()


def _add(
    layer: str, a: Tensor, b: Tensor, magnitude: Tensor | None, scale: float, turned: bool, before: Tensor
) -> Tensor:
    """W + s B A, its rows brought to `magnitude` where there is one (DoRA, arXiv 2402.09353, equation 5).

    Shapes: a (r, inputs), b (outputs, r), magnitude (outputs), before (outputs, inputs), or the other way if `turned`.
    """
    delta = scale * (b.float() @ a.float())
    weight = before.T if turned else before
    _same_shape(f"{layer}.weight", delta, weight)
    after = weight + delta
    if magnitude is not None:
        after = (magnitude.float() / after.norm(dim=1)).unsqueeze(1) * after
    return (after.T if turned else after).contiguous()


def _set_rows(layer: str, tokens: list[int], rows: Tensor, before: Tensor) -> Tensor:
    if len(tokens) != len(rows) or max(tokens) >= len(before) or rows.shape[1] != before.shape[1]:
        raise ModelError(f"{layer}: {len(tokens)} tokens with rows of {tuple(rows.shape)} in {tuple(before.shape)}")
    after = before.clone()
    after[tokens] = rows.float()
    return after


def _same_shape(name: str, change: Tensor, weight: Tensor) -> None:
    if weight.shape != change.shape:
        raise ModelError(
            f"{name}: the adapter's change is {tuple(change.shape)}, the base's weight {tuple(weight.shape)}"
        )
