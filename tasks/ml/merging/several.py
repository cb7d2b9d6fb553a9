"""Several plain LoRAs of one base as one, by PEFT's `add_weighted_adapter`, without the base's weights.

linear, cat, svd: https://huggingface.co/docs/peft, merging. TIES: Yadav et al. 2023, arXiv 2306.01708. DARE: Yu et al. 2023,
arXiv 2311.03099.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from tasks.core import manifest
from tasks.core.errors import IntegrityError, ParamsError
from tasks.core.manifest import Manifest
from tasks.core.sections import MergeParams
from tasks.ml import loading, peft_tuned
from tasks.ml.lora import patterns, plain
from tasks.ml.merging.held import Held

NAME = "combined"


def check(params: MergeParams, own: Manifest, adapter: Path) -> dict[str, str]:
    """The digests of the other adapters, by the names that they have among the inputs. `own`: of this run's own adapter.

    ParamsError: one of them is missing, was trained on another base or on one held in another way, or is no plain LoRA.
    """
    _check_plain("merge.also: this run's own adapter", adapter, own)
    digests: dict[str, str] = {}
    for number, also in enumerate(params.also, start=1):
        where, folder = f"merge.also: {also.adapter}", Path(also.adapter)
        if not folder.is_absolute():
            raise ParamsError(
                f"{where} is no absolute path, and runs work in folders of their own: give the whole path"
            )
        try:
            sealed = manifest.verify(folder)
        except IntegrityError as error:
            raise ParamsError(f"{where} can't be used: {error}") from None
        _check_same(where, sealed, own)
        _check_plain(where, folder, sealed)
        digests[f"also-{number}"] = sealed.digest
    return digests


def _check_same(where: str, sealed: Manifest, own: Manifest) -> None:
    if sealed.step != "train":
        raise ParamsError(f"{where} is no adapter but what {sealed.step} made: name a folder that train made")
    if sealed.inputs["base"] != own.inputs["base"]:
        raise ParamsError(f"{where} was trained on another base: only adapters of one base can be combined")
    if sealed.facts["base"] != own.facts["base"]:
        raise ParamsError(
            f"{where} was trained on the base held in {sealed.facts['base']}, this run's own in {own.facts['base']}: train "
            "both alike"
        )


def _check_plain(where: str, folder: Path, sealed: Manifest) -> None:
    if reason := plain.why_not(folder):
        raise ParamsError(f"{where} is no plain LoRA ({reason}), and only those are combined: leave it out")
    was_held = Held.of(sealed)
    if was_held is not None and was_held.loftq:
        raise ParamsError(f"{where} began from LoftQ, which belongs to one adapter alone: train it from another init")


def combine(params: MergeParams, base: Path, adapter: Path, into: Path) -> None:
    """Write the combined adapter, a plain LoRA. ParamsError: PEFT can't combine these in this way."""
    folders = [adapter, *(Path(also.adapter) for also in params.also)]
    names = [f"adapter{number}" for number in range(len(folders))]
    tuned: Any = PeftModel.from_pretrained(weightless(base), str(adapter), adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        tuned.load_adapter(str(folder), name)
    torch.manual_seed(params.seed)
    weights = [params.weight, *(also.weight for also in params.also)]
    try:
        tuned.add_weighted_adapter(names, weights, NAME, combination_type=params.combine, density=params.density)
    except ValueError as error:
        raise ParamsError(f"merge.combine={params.combine}: PEFT refuses: {' '.join(str(error).split())}") from None
    into.mkdir()
    _save(tuned, into)


def weightless(base: Path) -> Any:
    """The base with every weight one zero, seen as often as its shape says: the right shapes on a real device, and no memory.

    On the meta device PEFT would put the adapters there as well.
    """
    model: Any = loading.empty(base)
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            zero = torch.zeros((), dtype=value.dtype).expand(value.shape)
            setattr(module, name, nn.Parameter(zero, requires_grad=False))
    return model


def _save(tuned: Any, into: Path) -> None:
    """The combined pairs with a scale of 1 each, which is what they were made for; PEFT's own config would keep another
    for rsLoRA and for layers of other ranks."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {
        name: (layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach())
        for name, layer in tuned.get_base_model().named_modules()
        if hasattr(layer, "lora_A") and NAME in layer.lora_A
    }
    ranks = {name: len(a) for name, (a, _) in pairs.items()}
    rank = max(ranks.values())
    config = replace(
        tuned.peft_config[NAME], r=rank, lora_alpha=rank, use_rslora=False, inference_mode=True,
        rank_pattern=patterns.pattern(ranks, rank), alpha_pattern=patterns.pattern(ranks, rank),
    )  # fmt: skip
    halves = {f"{name}.lora_A.weight": a for name, (a, _) in pairs.items()}
    halves |= {f"{name}.lora_B.weight": b for name, (_, b) in pairs.items()}
    peft_tuned.write(config, halves, into)
