"""A sample of the training set, run through the model before training: what EVA, CorDA and rank allocation look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import EvaConfig, LoraConfig, get_eva_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from tasks.core.errors import ModelError, ParamsError
from tasks.data.chatset import Reading
from tasks.ml import packing
from tasks.ml.packing import Pack

PASSES = 100
"""Times that EVA may read the sample before it is given up: it repeats it until its components settle."""


@dataclass(frozen=True)
class Fed:
    """A pack as PEFT hands it around: `loss_sum` itself moves it where the model is."""

    pack: Pack

    def to(self, _device: Any) -> Fed:
        return self


def take(train: Reading, count: int) -> list[Pack]:
    """Packs evenly spaced over the training set: at most `count`. ParamsError: there are none."""
    if not len(train):
        raise ParamsError("train.options: init and allocate look at training packs, and there are none")
    places = sorted({place * len(train) // count for place in range(count)})
    return [packing.pack(train[place]) for place in places]


def run(model: PreTrainedModel, packs: list[Pack]) -> None:
    """Forward passes alone, for what hangs on the layers."""
    with torch.no_grad():
        for pack in packs:
            packing.loss_sum(model, pack)


def components(
    model: PreTrainedModel, names: list[str], packs: list[Pack], rank: int, rho: float = 1.0
) -> dict[str, Tensor]:
    """Principal components (rank, inputs) of the layers' inputs, by PEFT's EVA (Paischer et al. 2024, arXiv 2410.07170).

    With `rho` above 1 a layer may have up to rho times as many, at the cost of others: the mean stays at `rank`.
    ParamsError: no pack has as many tokens as a layer may have components. ModelError: they don't settle.
    """
    most = round(rank * rho)
    usable = [Fed(pack) for pack in packs if pack.ids.shape[1] >= most]
    if not usable:
        raise ParamsError(
            f"EVA asks for {most} components, and no pack of the sample has as many tokens: lower the rank"
        )
    budget = iter(range(PASSES * len(usable)))

    def forward(bare: PreTrainedModel, fed: Fed) -> None:
        if next(budget, None) is None:
            raise ModelError(
                f"EVA did not settle in {PASSES} passes over the sample: raise train.options.sample, or use init: kaiming"
            )
        packing.loss_sum(bare, fed.pack)

    config = LoraConfig(r=rank, target_modules=names, init_lora_weights="eva", eva_config=EvaConfig(rho=rho))
    own: Any = {"prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None, "show_progress_bar": False}
    return get_eva_state_dict(model, usable, config, forward_fn=forward, **own)
