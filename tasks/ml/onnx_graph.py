"""What an ONNX decoder's graph holds: which of its matrices are packed, and at how many bits."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tasks.core.errors import ModelError
from tasks.ml.onnx_decoder import FILE

WIDTH = 16
PLAIN, PACKED = "MatMul", "MatMulNBits"


def check_heads(merged: Path) -> None:
    """ModelError: onnxruntime's fused attention would refuse the width of the model's heads, at the first token."""
    config: Any = AutoConfig.from_pretrained(merged, local_files_only=True).get_text_config()
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size % WIDTH:
        raise ModelError(
            f"{merged}: its attention heads are {size} wide, and onnxruntime's fused attention takes multiples of {WIDTH}: "
            "leave onnx out of quantize.formats"
        )


def look(folder: Path, variant: str, keep: Collection[str], *, ends: bool) -> dict[str, Any]:
    """Numbers of packed and plain matrices in the decoder blocks, and how the head stands.

    `keep`: the blocks that should be plain, as the graph names them (`model/layers.7`). ModelError: a block that should
    be packed is not, or the other way.
    """
    graph: Any = importlib.import_module("onnx").load(folder / FILE, load_external_data=False).graph
    bits = {node.name: _bits(node) for node in graph.node if node.op_type in (PLAIN, PACKED)}
    blocks = {name: found for name, found in bits.items() if re.match(r"/model/layers\.\d+/", name)}
    heads = [found for name, found in bits.items() if name.startswith("/lm_head/")]
    packed = {name for name, found in blocks.items() if found}
    wanted = 0 if variant == "fp32" else int(variant.removeprefix("int"))
    kept = {name for name in blocks if any(name.startswith(f"/{block}/") for block in keep)}
    left = sorted(blocks.keys() - packed - kept) if wanted else []
    if not blocks or (wanted and not packed) or {bits[name] for name in packed} - {wanted}:
        raise ModelError(
            f"{folder}: {len(packed)} of {len(blocks)} matrices are in {wanted} bits: the builder left the rest"
        )
    if kept & packed or (ends and any(heads)):
        raise ModelError(
            f"{folder}: the builder packed what was to be kept: {', '.join(sorted(kept & packed)) or 'the head'}"
        )
    return {
        "quantised_layers": len(packed), "left_layers": left,
        "kept_layers": sorted(name.replace("/", ".", 1) for name in keep), "head_bits": max(heads, default=0) or 32,
    }  # fmt: skip


def _bits(node: Any) -> int:
    """0: a plain matrix."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 0)
