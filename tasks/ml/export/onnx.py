"""ONNX for onnxruntime: the decoder with its cache of keys and values, in float32 or with 8- or 4-bit matrices.

Built by onnxruntime-genai's model builder, which fuses attention and writes what its own runtime needs beside the
model. int4 and int8: a scale a block of 32 weights. In int4 the head is packed too, and embeddings that are tied to it,
unless the recipe keeps the ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import DISK_FULL, ModelError, ResourceError

if TYPE_CHECKING:
    from tasks.core.sections import Engine
    from tasks.ml.export.recipe import Recipe, Remedy
    from tasks.ml.serving import Served

VARIANTS = ("fp32", "int8", "int4")
CARRIES = False
REMEDIES: tuple[Remedy, ...] = ("ends", "layers")

NEEDS = ("onnxruntime", "onnxruntime_genai", "onnx_ir", "onnx")
ENDS = ("/lm_head/MatMul", "/model/embed_tokens/Gather")
PARTS = (
    "attn/q_proj", "attn/k_proj", "attn/v_proj", "attn/qkv_proj", "attn/o_proj",
    "mlp/gate_proj", "mlp/up_proj", "mlp/gate_up_proj", "mlp/down_proj", "mlp/fc1", "mlp/fc2",
)  # fmt: skip
"""A block's matrices as the builder names them, in every architecture that it knows."""


def missing() -> str | None:
    return None if all(map(importlib.util.find_spec, NEEDS)) else "pip install 'tuneline[onnx]'"


def write(merged: Path, into: Path, variant: str, recipe: Recipe) -> dict[str, Any]:
    """Build in a process of its own, which keeps global state and ends where it likes; then look at the graph."""
    from tasks.ml import onnx_graph, saved
    from tasks.ml.export import companions

    saved.check_plain(merged)
    onnx_graph.check_heads(merged)
    _build(merged, into, variant, recipe)
    companions.copy(merged, into)
    return onnx_graph.look(into, variant, [name.replace(".", "/", 1) for name in recipe.keep], ends=recipe.ends)


def _options(merged: Path, variant: str, recipe: Recipe) -> list[str]:
    """The builder's. Embeddings and head that are tied it can pack only as one, in 4 bits and rounded to nearest; where
    they stay plain, k_quant's search finds better scales and zeros for the rest."""
    tied = json.loads((merged / "config.json").read_bytes()).get("tie_word_embeddings") is True
    plain = recipe.ends or (tied and variant == "int8")
    kept = [f"/{name.replace('.', '/', 1)}/{part}/MatMul" for name in sorted(recipe.keep) for part in PARTS]
    kept += ENDS if plain else ()
    return [
        "hf_token=false", *([f"nodes_to_exclude={','.join(kept)}"] if kept else []),
        *(["algo_config=k_quant"] if variant == "int4" and (plain or not tied) else []),
    ]  # fmt: skip


def _build(merged: Path, into: Path, variant: str, recipe: Recipe) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(merged), "-o", str(into),
            "-p", variant, "-e", "cpu", "-c", scratch, "--extra_options", *_options(merged, variant, recipe),
        ]  # fmt: skip
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    if done.returncode:
        if "No space left on device" in done.stderr:
            raise ResourceError(f"{into}: {DISK_FULL}")
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{merged}: the ONNX model builder failed: {last:.300}")


def load(folder: Path, engine: Engine = "auto") -> Served:
    from tasks.ml import onnx_decoder
    from tasks.ml.serving import Served

    decoder = onnx_decoder.Decoder.open(folder)
    return Served(onnx_decoder.RUNTIME, decoder.logits, decoder.generate)
