"""Finished plain LoRAs as frozen experts of one model: read from their folders, checked against it, written again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core import digest
from tasks.core.errors import ModelError, ParamsError
from tasks.ml import peft_tuned, targets
from tasks.ml.lora import patterns, plain
from tasks.ml.updates import lora

FILES = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Pair:
    """s B A of one layer. Shapes: a (rank, inputs), b (outputs, rank)."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class Expert:
    """A LoRA by the full names of its layers. `digest`: SHA-256 of the file that its tensors were read from."""

    name: str
    config: LoraConfig
    pairs: Mapping[str, Pair]
    digest: str


def read_all(model: PreTrainedModel, folders: Mapping[str, str]) -> list[Expert]:
    """In the order of their names. ParamsError: one is no plain LoRA that fits the model."""
    return [_read(model, name, Path(folders[name])) for name in sorted(folders)]


def by_layer(model: PreTrainedModel, experts: list[Expert]) -> dict[str, dict[int, Pair]]:
    """The layers that any of them changes, in the model's order, each with its pairs by their expert's number."""
    found = {
        name: {number: expert.pairs[name] for number, expert in enumerate(experts) if name in expert.pairs}
        for name in targets.linear(model)
    }
    return {name: pairs for name, pairs in found.items() if pairs}


def mark(experts: list[Expert]) -> Tensor:
    """Their digests as bytes, for checkpoints."""
    return torch.tensor([byte for expert in experts for byte in bytes.fromhex(expert.digest)], dtype=torch.uint8)


def check_same(mine: Tensor, saved: Tensor) -> None:
    """ModelError: a checkpoint was made with others."""
    if not torch.equal(mine, saved.cpu()):
        raise ModelError(
            "train.options.adapters: an adapter's folder has changed since this run began: put it back, or give the new "
            "one a folder of its own"
        )


def write(model: PreTrainedModel, expert: Expert, folder: Path) -> None:
    """As PEFT loads it. Law: equal experts give equal bytes, wherever they were read."""
    ranks = {name: len(pair.a) for name, pair in expert.pairs.items()}
    config = LoraConfig(
        task_type="CAUSAL_LM", inference_mode=True, r=max(ranks.values()), lora_alpha=expert.config.lora_alpha,
        rank_pattern=patterns.pattern(ranks, max(ranks.values())), alpha_pattern=expert.config.alpha_pattern,
        use_rslora=expert.config.use_rslora, fan_in_fan_out=expert.config.fan_in_fan_out,
        target_modules=targets.compact(model, list(ranks)),
    )  # fmt: skip
    halves = {f"{name}.lora_A.weight": pair.a for name, pair in expert.pairs.items()}
    halves |= {f"{name}.lora_B.weight": pair.b for name, pair in expert.pairs.items()}
    folder.mkdir(parents=True)
    peft_tuned.write(config, halves, folder)


def _read(model: PreTrainedModel, name: str, folder: Path) -> Expert:
    where = f"train.options.adapters.{name}: {folder}"
    for file in FILES:
        if not (folder / file).is_file():
            raise ParamsError(f"{where} has no {file}: give the folder of an adapter that train.method=lora made")
    config = _config(folder, where)
    try:
        pairs = _pairs(config, _tensors(folder / FILES[1], where), where)
    except re.error as error:
        raise ParamsError(f"{where}/{FILES[0]}: a pattern is no regular expression: {error}") from None
    _check_fits(model, pairs, where)
    return Expert(name, config, pairs, digest.of_file(folder / FILES[1]))


def _pairs(config: LoraConfig, halves: dict[str, Tensor], where: str) -> dict[str, Pair]:
    """By layer, with the scales and ranks that the config gives them."""
    found: dict[str, Any] = config.to_dict()
    pairs: dict[str, Pair] = {}
    for layer in sorted({key.partition(".lora_")[0] for key in halves}):
        a, b = (halves.pop(f"{layer}.lora_{half}.weight", None) for half in ("A", "B"))
        if a is None or b is None:
            raise ParamsError(f"{where}: its adapter of {layer} is not a plain pair of A and B: train it again")
        fitting = (rank for key, rank in (config.rank_pattern or {}).items() if re.match(rf"(.*\.)?({key})$", layer))
        if len(a) != (rank := next(fitting, config.r)):
            raise ParamsError(f"{where}: its A of {layer} has rank {len(a)}, its config says {rank}: train it again")
        pairs[layer] = Pair(a, b, lora.scale(found, layer, len(a)))
    if halves or not pairs:
        raise ParamsError(f"{where} is no plain LoRA: it holds {next(iter(halves), 'no tensors')}")
    return pairs


def _config(folder: Path, where: str) -> LoraConfig:
    try:
        why = plain.why_not(folder)
        if why is None:
            config: Any = LoraConfig.from_pretrained(str(folder))
            return config
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParamsError(f"{where}/{FILES[0]} is damaged ({error!r:.100}): train the adapter again") from None
    raise ParamsError(f"{where} is no plain LoRA: {why}; only plain ones can be mixed")


def _tensors(file: Path, where: str) -> dict[str, Tensor]:
    """By their names in the bare model."""
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ParamsError(f"{where}/{FILES[1]} is damaged ({error}): train the adapter again") from None
    for key, value in tensors.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise ParamsError(f"{where}: {key} is not finite: train the adapter again")
    return {key.removeprefix(lora.PREFIX): value for key, value in tensors.items()}


def _check_fits(model: PreTrainedModel, pairs: Mapping[str, Pair], where: str) -> None:
    there, made = targets.linear(model), f"{where} was made for another base"
    for name, pair in pairs.items():
        if name not in there:
            raise ParamsError(f"{made}: {type(model).__name__} has no linear layer {name!r:.120} below its head")
        inputs, outputs = targets.sides(there[name])
        wanted = (len(pair.a), inputs), (outputs, len(pair.a))
        if (tuple(pair.a.shape), tuple(pair.b.shape)) != wanted:
            raise ParamsError(
                f"{made}: its A and B of {name} are {tuple(pair.a.shape)} and {tuple(pair.b.shape)}, "
                f"the layer is {outputs}x{inputs}"
            )
