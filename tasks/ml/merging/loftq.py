"""A LoRA that began as what quantisation lost, on the base that lost nothing.

LoftQ (Li et al. 2023, arXiv 2310.08659) starts at s B0 A0, close to W - Q. On Q that makes up for the loss; on W it would
count it a second time. So it is taken off: s (B A - B0 A0) = s [B | -B0] [A ; A0], a plain LoRA on W, zero where training began.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tasks.ml import loading, tensors
from tasks.ml.lora import frozen, starts
from tasks.ml.merging.held import Held
from tasks.ml.updates import lora


def without_start(base: Path, adapter: Path, held: Held, layers: Mapping[str, bool], into: Path) -> None:
    """Write the adapter for the original base. `layers`: the weights that training held quantised; whether each is turned."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    found = {name: part.read() for name, part in tensors.finite(adapter / lora.FILE).items()}
    scales: dict[str, float] = {}
    for key in [name for name in found if name.endswith(".lora_A.weight")]:
        stem = key.removesuffix("lora_A.weight")
        layer = stem.removeprefix(lora.PREFIX).rstrip(".")
        a, b = found[key], found[f"{stem}lora_B.weight"]
        scales[layer] = lora.scale(config, layer, len(a))
        if f"{layer}.weight" in layers:
            original = starts.original(base, layer, transposed=layers[f"{layer}.weight"])
            a0, b0 = starts.loftq(original, held.seen(original, turned=False), len(a), scales[layer])
            found[key] = torch.cat([a, a0.to(held.dtype).to(a.dtype)])
            found[f"{stem}lora_B.weight"] = torch.cat([b, -b0.to(held.dtype).to(b.dtype)], 1)
    shutil.copyfile(adapter / "adapter_config.json", into / "adapter_config.json")
    with loading.writing(into):
        save_file(found, into / lora.FILE, metadata={"format": "pt"})
    frozen.describe(into, scales, rooted=config["use_rslora"])
