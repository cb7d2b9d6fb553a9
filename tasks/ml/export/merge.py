"""LoRA into plain weights: the base's files are copied and only touched tensors rewritten in place.

Bit-identical to PEFT's `merge_and_unload` in float32 followed by one rounding, without loading the model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.core import events, weights
from tasks.core.errors import ModelError
from tasks.ml import loading

PREFIX = "base_model.model."
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write(base: Path, adapter: Path, into: Path, dtype: str) -> dict[str, Any]:
    """Write the merged model; facts say how much of each delta survived the rounding."""
    deltas = _deltas(adapter)
    for file in sorted(base.iterdir()):
        if file.suffix != ".safetensors" and file.name != "manifest.json":
            shutil.copyfile(file, into / file.name)
    survival: list[float] = []
    pending = dict(deltas)
    files = weights.shards(base)
    for number, shard in enumerate(files, start=1):
        survival += _shard(shard, into / shard.name, pending, DTYPES.get(dtype))
        events.progress("merge", number, len(files), tensors=len(survival))
    if pending:
        raise ModelError(f"the adapter changes {next(iter(pending))}, which the base {base} does not have: wrong base")
    if dtype != "base":
        _say_dtype(into / "config.json", dtype)
    lost = [value for value in survival if value < 0.9]
    if lost:
        events.warning(
            f"rounding bends the change (cosine under 0.9) in {len(lost)} of {len(survival)} tensors; merge.dtype=float32 keeps all"
        )
    return {
        "merged_tensors": len(survival),
        "survival_min": min(survival),
        "survival_mean": sum(survival) / len(survival),
    }


def _deltas(adapter: Path) -> dict[str, Tensor]:
    """Weight name -> scale * B A in float32. ModelError: not a plain LoRA adapter, or a half is missing."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())  # PEFT takes 7 s to import
    plain = config["peft_type"] == "LORA" and config["bias"] == "none"
    patterns = config["rank_pattern"] or config["alpha_pattern"] or config["modules_to_save"]
    if not plain or patterns or config["use_dora"] or config["fan_in_fan_out"]:
        raise ModelError(f"{adapter} is not a plain LoRA adapter, so it can't be merged; serve it beside its base")
    tensors = load_file(adapter / "adapter_model.safetensors")
    deltas: dict[str, Tensor] = {}
    for name, a in tensors.items():
        if ".lora_A." not in name:
            continue
        b = tensors.get(name.replace(".lora_A.", ".lora_B."))
        module = name.removeprefix(PREFIX).replace(".lora_A.weight", "")
        if b is None or not (a.isfinite().all() and b.isfinite().all()):
            raise ModelError(f"{adapter}: the adapter of {module} is missing a half or is not finite")
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
        deltas[module + ".weight"] = scale * (b.float() @ a.float())
    if not deltas:
        raise ModelError(f"{adapter} holds no LoRA matrices")
    return deltas


def _shard(source: Path, target: Path, deltas: dict[str, Tensor], dtype: torch.dtype | None) -> list[float]:
    """Write one shard, taking the deltas that belong to it; the share of each delta that survived rounding."""
    places = weights.header(source)
    touched = {name: deltas.pop(name) for name in list(deltas) if name in places}
    try:
        with safe_open(source, "pt") as tensors:
            merged = {name: _add(name, tensors.get_tensor(name), delta, dtype) for name, delta in touched.items()}
            survival = [_survival(tensors.get_tensor(name), touched[name], value) for name, value in merged.items()]
            if dtype is None:
                shutil.copyfile(source, target)
                _patch(target, places, merged)
            else:
                others = {name: tensors.get_tensor(name).to(dtype) for name in places if name not in merged}
                with loading.writing(target):
                    save_file({name: (merged | others)[name] for name in places}, target, metadata={"format": "pt"})
    except SafetensorError as error:
        raise ModelError(f"{source}: {error}") from None
    return survival


def _add(name: str, weight: Tensor, delta: Tensor, dtype: torch.dtype | None) -> Tensor:
    if weight.shape != delta.shape:
        raise ModelError(
            f"{name}: the adapter's change is {tuple(delta.shape)}, the base's weight {tuple(weight.shape)}"
        )
    return (weight.float() + delta).to(dtype or weight.dtype).contiguous()


def _survival(before: Tensor, delta: Tensor, after: Tensor) -> float:
    """Cosine between the change that is stored and the change that was learned: 1 where rounding lost nothing."""
    stored = after.float() - before.to(after.dtype).float()
    return torch.nn.functional.cosine_similarity(stored.flatten(), delta.flatten(), dim=0).item()


def _patch(file: Path, places: Mapping[str, weights.Tensor], tensors: Mapping[str, Tensor]) -> None:
    with file.open("r+b") as stream:
        for name, tensor in tensors.items():
            stream.seek(places[name].start)
            stream.write(tensor.view(torch.uint8).numpy().tobytes())


def _say_dtype(config: Path, dtype: str) -> None:
    value = json.loads(config.read_bytes())
    value["dtype"] = dtype
    config.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
