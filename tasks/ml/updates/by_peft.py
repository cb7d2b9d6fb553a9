"""PEFT's other kinds as updates: PEFT merges them in float32, and what differs from the base is what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from tasks.core import weights
from tasks.core.errors import ModelError
from tasks.ml import loading
from tasks.ml.updates import Unmergeable, Update, Updates

PROBE = 64
"""Tokens on which base with adapter and merged model have to agree."""


def updates(base: Path, adapter: Path) -> Updates:
    """Unmergeable: PEFT refuses, or its merge answers otherwise than base and adapter. ModelError: they don't fit."""
    from peft import PeftModel

    model = loading.load(base, torch.float32)
    try:
        tuned: Any = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the adapter {adapter} does not fit its base: {' '.join(str(error).split())}") from None
    wanted = _answers(tuned)
    try:
        merged = tuned.merge_and_unload()
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise Unmergeable(f"PEFT can't merge it: {' '.join(str(error).split())}") from None
    found = _answers(merged)
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item()):
        apart = (found - wanted).abs().max().item()
        raise Unmergeable(f"merged by PEFT it answers otherwise than beside its base (logits apart by {apart:.3g})")
    return dict(_changed(base, merged))


def _answers(model: Any) -> Tensor:
    ids = torch.randint(model.config.vocab_size, (1, PROBE), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(input_ids=ids.to(model.device)).logits.float()


def _changed(base: Path, merged: Any) -> Iterator[tuple[str, Update]]:
    """Every tensor that differs from the base's own; of two tied ones the first. transformers may hold several of the
    files' tensors as one, as it does with experts."""
    values = revert_weight_conversion(merged, {name: value.detach().cpu() for name, value in merged.named_parameters()})
    for shard in weights.shards(base):
        with safe_open(shard, "pt") as tensors:
            for name in weights.header(shard):
                known = next((key for key in values if key == name or key.endswith("." + name)), None)
                if known is not None:
                    value = values.pop(known)
                    if not torch.equal(value, tensors.get_tensor(name).float()):
                        yield known, Update(lambda _before, value=value: value)
    for name, value in values.items():  # the base's files have no such tensor: a head that is tied no more
        yield name, Update(lambda _before, value=value: value)
