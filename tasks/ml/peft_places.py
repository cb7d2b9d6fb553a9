"""Where one of PEFT's tuners goes on a model, in the words of its config, checked before anything is built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.core.errors import ParamsError
from tasks.core.sections import TrainParams
from tasks.ml import targets
from tasks.ml.peft_method import config_class
from tasks.ml.peft_table import TUNERS


def settings(model: PreTrainedModel, params: TrainParams, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The config's fields that follow from the model. ParamsError: the tuner can't go there."""
    match TUNERS[name].places:
        case "linear":
            return _linear(model, params, name, given)
        case "norms":
            return {"target_modules": _norms(model, params)}
        case "embedding":
            return {"target_modules": [_embedding(model, given["token_indices"])]}
        case "attention":
            layers = model.config.get_text_config().num_hidden_layers
            return {} if "adapter_layers" in given else {"adapter_layers": layers}


def _linear(model: PreTrainedModel, params: TrainParams, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    tuner = TUNERS[name]
    choose = targets.choose if tuner.rank and tuner.bounded else targets.named
    chosen = choose(model, params)
    layers = targets.linear(model)
    transposed = [layer for layer in chosen if isinstance(layers[layer], Conv1D)]
    if transposed and not tuner.conv1d:
        able = ", ".join(other for other, made in TUNERS.items() if made.conv1d and made.places == "linear")
        raise ParamsError(
            f"train.method={name}: PEFT can't put it on {transposed[0]}, a Conv1D; of its kind these can: {able}"
        )
    made: dict[str, Any] = {"target_modules": targets.compact(model, chosen)}
    if transposed and "fan_in_fan_out" in {item.name for item in dataclasses.fields(config_class(name))}:
        made["fan_in_fan_out"] = True
    if tuner.divides and tuner.divides[0] not in given:
        option, most = tuner.divides
        made[option] = _divisor((side for layer in chosen for side in targets.sides(layers[layer])), most)
    if name == "ia3":
        made |= {"target_modules": chosen, "feedforward_modules": _feedforward(model, chosen, given)}
    return made


def _divisor(sides: Iterable[int], most: int) -> int:
    """The largest number up to `most` that divides every side."""
    common = math.gcd(*sides)
    return max(number for number in range(1, most + 1) if common % number == 0)


def _feedforward(model: PreTrainedModel, chosen: list[str], given: Mapping[str, Any]) -> list[str]:
    """(IA)3 scales the input of these, and the output of the others: the second layer of each MLP."""
    wanted: Any = given.get("feedforward_modules")
    if wanted is None:
        kind = model.config.get_text_config().model_type
        if kind not in FEEDFORWARD:
            raise ParamsError(
                f"train.options.feedforward_modules: name the layers that end an MLP in {kind}, [] for none"
            )
        known: list[str] = FEEDFORWARD[kind]
        return [layer for layer in chosen if any(layer.endswith("." + end) for end in known)]
    found = (
        targets.matching(chosen, tuple(wanted) if isinstance(wanted, list) else wanted, "chosen layer")
        if wanted
        else set()
    )
    return [layer for layer in chosen if layer in found]


def _norms(model: PreTrainedModel, params: TrainParams) -> list[str]:
    """All norms, unless train.targets names some: it says all-linear when nobody chose."""
    norms = [name for name, module in model.named_modules() if type(module).__name__.endswith("Norm")]
    if params.targets == "all-linear":
        return norms
    found = targets.matching(norms, params.targets, "norm")
    return [name for name in norms if name in found]


def _embedding(model: PreTrainedModel, tokens: list[int]) -> str:
    embedding: Any = model.get_input_embeddings()
    size = int(embedding.weight.shape[0])
    wrong = [token for token in tokens if not 0 <= token < size]
    if wrong or not tokens:
        found = f"{wrong[0]} is none" if wrong else "there is none in the list"
        raise ParamsError(f"train.options.token_indices: {found} of the base's {size} tokens, numbered from 0")
    return next(name for name, module in model.named_modules() if module is embedding)
