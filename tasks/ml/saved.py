"""The folder of a quantised model as transformers reads it: written with its tokenizer, then looked at.

Some tools take a model and save it as it was: what counts is what lies in the files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.core import weights
from tasks.core.errors import ModelError
from tasks.ml import loading
from tasks.ml.export import companions

PLAIN = frozenset({"F64", "F32", "F16", "BF16"})


def write(model: Any, merged: Path, into: Path) -> None:
    """The model's weights and config as transformers saves them, in safetensors, and the tokenizer."""
    loading.forget_path(model)
    with loading.writing(into):
        model.save_pretrained(into)
    companions.copy(merged, into)


def check_plain(merged: Path) -> None:
    """ModelError: the folder is quantised already; a second rounding on the first is never meant."""
    if found := loading.stored_quantisation(merged):
        raise ModelError(f"{merged} is already quantised ({found}): quantise the 16-bit model that it was made from")


def dtype(merged: Path) -> torch.dtype:
    """What stays unquantised is stored in 16 bits, alike on every machine: in float16 where the model is in it."""
    stored = {place.dtype for shard in weights.shards(merged) for place in weights.header(shard).values()}
    return torch.float16 if "F16" in stored else torch.bfloat16


def heads(model: Any) -> list[str]:
    """The name of the layer that gives the logits, which most formats leave as it is."""
    return [name for name, module in model.named_modules() if module is model.get_output_embeddings()]


def matrices(folder: Path) -> dict[str, int]:
    """Number of weights of each matrix in the folder's decoder blocks, by the name of its module."""
    return {
        name.removesuffix(".weight"): place.shape[0] * place.shape[1]
        for shard in weights.shards(folder)
        for name, place in weights.header(shard).items()
        if name.endswith(".weight") and len(place.shape) == 2 and re.search(r"\.\d+\.", name)
    }


def look(merged: Path, into: Path, keep: Collection[str], bits: float) -> dict[str, Any]:
    """What lies in the files: how many matrices are packed, at how many bits, and which ones were left as they were.

    `left_layers` are those that the format could not pack, not those of the blocks to `keep`.
    ModelError: none is packed, the config does not say so, a kept one is packed, or they take more than `bits` a weight.
    """
    stored = {name: place for shard in weights.shards(into) for name, place in weights.header(shard).items()}
    all = matrices(merged)
    packed = {name: count for name, count in all.items() if _packed(stored, name)}
    kept = {name for name in all if within(name, keep)}
    size = sum(place.end - place.start for name, place in stored.items() if within(name, packed))
    found = 8 * size / max(1, sum(packed.values()))
    if not packed or loading.stored_quantisation(into) is None:
        raise ModelError(f"{merged}: no matrix of its decoder blocks was quantised ({len(all)} found)")
    if found > bits or kept & packed.keys():
        raise ModelError(
            f"{merged}: quantised to {found:.2f} bits a weight where {bits:g} were asked for at the most, with "
            f"{len(kept & packed.keys())} of the {len(kept)} matrices to be kept among them"
        )
    return {
        "quantised_layers": len(packed), "bits_per_weight": round(found, 3),
        "left_layers": sorted(all.keys() - packed.keys() - kept), "kept_layers": sorted(keep),
    }  # fmt: skip


def within(name: str, modules: Iterable[str]) -> bool:
    """Whether the tensor or module lies in one of these modules, or is one."""
    parts = name.split(".")
    prefixes = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return not prefixes.isdisjoint(modules)


def _packed(stored: Mapping[str, weights.Tensor], module: str) -> bool:
    plain = stored.get(f"{module}.weight")
    return plain is None or plain.dtype not in PLAIN
