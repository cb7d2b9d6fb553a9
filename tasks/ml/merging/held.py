"""The base as a training with quantised weights saw it, tensor by tensor: quantised and unpacked again.

NF4 with double quantisation: Dettmers et al. 2023, arXiv 2305.14314. int8: Dettmers et al. 2022, arXiv 2208.07339.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from tasks.core.manifest import Manifest
from tasks.core.sections import TrainParams
from tasks.ml.updates import Update, Updates, same, ties

BLOCK = 64
"""Values that share a scale in NF4: bitsandbytes' own choice for its layers."""


@dataclass(frozen=True)
class Held:
    """How training held the base: `nf4` or `int8`, made of weights in `dtype`. loftq: A and B began as what that lost."""

    kind: str
    dtype: torch.dtype
    loftq: bool

    @classmethod
    def of(cls, adapter: Manifest) -> Self | None:
        """None: training saw the very weights that the base's files hold."""
        if adapter.facts["base"] not in ("nf4", "int8"):
            return None
        from tasks.ml import methods
        from tasks.ml.lora.sections import QloraOptions

        _, options = methods.find(TrainParams.model_validate(adapter.params))
        loftq = isinstance(options, QloraOptions) and options.init == "loftq"
        return cls(adapter.facts["base"], getattr(torch, adapter.facts["dtype"]), loftq)

    def seen(self, weight: Tensor, *, turned: bool) -> Tensor:
        """What training computed with in place of a weight, both in float32 and in the files' own orientation."""
        kept = (weight.T if turned else weight).to(self.dtype).contiguous()
        trip = _through_nf4 if self.kind == "nf4" else _through_int8
        found = trip(kept).float()
        return (found.T if turned else found).contiguous()


def _through_nf4(weight: Tensor) -> Tensor:
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    return functional.dequantize_4bit(packed, state)


def _through_int8(weight: Tensor) -> Tensor:
    from bitsandbytes import functional

    values, scales, _ = functional.int8_vectorwise_quant(weight.half())
    return functional.int8_vectorwise_dequant(values, scales)


def layers(base: Path, held: Held) -> dict[str, bool]:
    """The weights that transformers quantises, by their names in the model, and whether each is stored turned."""
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.auto import AutoHfQuantizer

    from tasks.ml import loading

    model: Any = loading.empty(base)
    linear = {name: isinstance(module, Conv1D) for name, module in model.named_modules()}
    quantiser: Any = AutoHfQuantizer.from_config(loading.quantization(held.kind, held.dtype), pre_quantized=False)
    quantiser.preprocess_model(model=model, device_map=None)
    return {
        f"{name}.weight": linear[name]
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt")
    }


@dataclass(frozen=True)
class Seen:
    """A base as a training saw it. `turned`: the weights that were held quantised, and whether the files have them turned."""

    held: Held
    turned: Mapping[str, bool]

    def under(self, updates: Updates, names: Collection[str]) -> Updates:
        """The updates on that base, of which every quantised weight is another tensor. `names`: those of the files."""
        found = dict(updates)
        for name, turned in self.turned.items():
            key = next((each for each in (name, ties.find(name, names)) if each in found), name)
            update = found[key] if key in found else Update(same)
            found[key] = replace(update, origin=partial(self.held.seen, turned=turned))
        return found
