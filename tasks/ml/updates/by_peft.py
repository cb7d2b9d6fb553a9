"""PEFT's other kinds as updates: PEFT merges them in float32, a layer at a time.

The base has no weights in memory. A layer has its own while PEFT makes it, and while it is merged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tasks.core.errors import ModelError
from tasks.ml import loading, tensors
from tasks.ml.updates import Unmergeable, Update, Updates
from tasks.ml.updates.empty_base import EmptyBase, filled
from tasks.ml.updates.experts import parts

FILE, PREFIX = "adapter_model.safetensors", "base_model.model."
PROBE = 8
"""Inputs on which a layer with its adapter and the merged one have to agree."""


def updates(base: Path, adapter: Path) -> Updates:
    """Unmergeable: PEFT refuses, or a merged layer answers otherwise than one with its adapter beside. ModelError: they
    don't fit.

    What begins from more of the base than the layer at hand (FRoD, chosen tokens) is begun with all of it in memory.
    """
    begun = _begin(base, adapter) or _begin(base, adapter, whole=True)
    if begun is None:
        raise Unmergeable("PEFT makes it from tensors that the base's files don't have")
    tuned, empty = begun
    try:
        tuned.base_model._check_merge_allowed()
        return dict(_updates(tuned, empty))
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise Unmergeable(f"PEFT can't merge it: {' '.join(str(error).split())}") from None


def _begin(base: Path, adapter: Path, *, whole: bool = False) -> tuple[Any, EmptyBase] | None:
    """PEFT's model, and the base under it, without weights. None: parts of it can't be made so."""
    model: Any = loading.load(base, torch.float32) if whole else loading.empty(base)
    if whole:
        model.to("cpu")
    empty = EmptyBase.of(base, model)
    own = {
        name.removeprefix(PREFIX).replace(".base_layer.", "."): part
        for name, part in tensors.finite(adapter / FILE).items()
    }
    try:
        with _made_one_by_one(adapter, empty):
            tuned: Any = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu").eval()
    except (ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, NotImplementedError) and not whole:  # torch's answer where there is no weight to look at
            return None
        raise ModelError(f"the adapter {adapter} does not fit its base: {' '.join(str(error).split())}") from None
    if empty.lacks(tuned):
        return None
    empty.own.update({name: part.read().float() for name, part in own.items() if empty.has(name)})
    empty.drop()
    return tuned, empty


@contextmanager
def _made_one_by_one(adapter: Path, empty: EmptyBase) -> Generator[None]:
    """While a layer is made its base has values: some kinds start from them, and some change them."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    kind = next(kind for kind in PEFT_TYPE_TO_TUNER_MAPPING if kind.value == config["peft_type"])
    before: Any = PEFT_TYPE_TO_TUNER_MAPPING[kind]

    class OneByOne(before):
        def _create_and_replace(self, config: Any, name: str, target: Any, *where: Any, **more: Any) -> None:
            module = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
            with empty.changing(module):
                super()._create_and_replace(config, name, target, *where, **more)

    PEFT_TYPE_TO_TUNER_MAPPING[kind] = OneByOne
    try:
        yield
    finally:
        PEFT_TYPE_TO_TUNER_MAPPING[kind] = before


def _updates(tuned: Any, empty: EmptyBase) -> Iterator[tuple[str, Update]]:
    """Every tensor that a layer changes when it is merged, and those that were trained themselves. PEFT merges a layer
    alone: what the base ties to it stays."""
    for name, value in empty.own.items():
        yield name, Update(partial(_replace, value), alone=True)
    for layer in (module for module in tuned.modules() if isinstance(module, BaseTunerLayer)):
        module, lock = layer.get_base_layer(), threading.Lock()
        if (in_parts := parts(layer, empty)) is not None:
            yield from in_parts.items()
            continue
        for short in _changed(layer, empty):
            update = Update(partial(_merge, layer, empty, lock, short), alone=True)
            yield f"{empty.names[id(module)]}.{short}", update


def _replace(value: Tensor, _before: Tensor) -> Tensor:
    return value


def _changed(layer: Any, empty: EmptyBase) -> list[str]:
    """The base's tensors that merging changes. Unmergeable: merged, the layer answers otherwise."""
    module = layer.get_base_layer()
    values = empty.values(module)
    with torch.no_grad(), filled(module, {name: value.clone() for name, value in values.items()}):
        asked = _asked(module)
        wanted = None if asked is None else layer(asked)
        with _merged(layer) as after:
            if wanted is not None and not torch.allclose(
                found := layer(asked), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item()
            ):
                apart = (found - wanted).abs().max().item()
                raise Unmergeable(
                    f"{empty.names[id(module)]} merged by PEFT answers otherwise than beside its base (apart by {apart:.3g})"
                )
            return [name for name, value in after.items() if name not in values or not torch.equal(value, values[name])]


def _merge(layer: Any, empty: EmptyBase, lock: threading.Lock, name: str, before: Tensor) -> Tensor:
    """The tensor `name` of a layer's base as PEFT merges it."""
    module = layer.get_base_layer()
    with lock, torch.no_grad(), filled(module, empty.values(module, {name: before})), _merged(layer) as after:
        return after[name]


@contextmanager
def _merged(layer: Any) -> Generator[dict[str, Tensor]]:
    """The layer merged, and what its base's tensors are then."""
    before = layer.get_base_layer()
    layer.merge()
    after = layer.get_base_layer()
    try:
        yield {name: value.detach() for name, value in after.named_parameters(recurse=False)}
    finally:
        if after is before:
            layer.merged_adapters.clear()  # its values go anyway
        else:  # LayerNorm tuning puts another in its place
            layer.unmerge()


def _asked(module: nn.Module) -> Tensor | None:
    """Inputs of shape (1, PROBE, width), ids for embeddings; None where a layer takes more than one input."""
    draw = torch.Generator().manual_seed(0)
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Embedding):
        return torch.randint(module.num_embeddings, (1, PROBE), generator=draw)
    if not isinstance(weight, Tensor) or weight.ndim > 2:
        return None
    width = weight.shape[-1] if isinstance(module, nn.Linear) else weight.shape[0]  # Conv1D's, a norm's
    return torch.randn((1, PROBE, width), generator=draw)
