"""One GGUF file as a plain model in bfloat16: by the line's own reader, or by transformers.

    python benchmarks/peers/gguf_import.py tuneline|transformers FILE OUT

Ours also reads the tokenizer and writes both into the folder OUT. The answer has a digest of all the weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

Weights = Mapping[str, Any]


def by_tuneline(file: Path, out: Path) -> tuple[float, Weights]:
    from tasks.ml import gguf_base

    out.mkdir()
    started = time.perf_counter()
    gguf_base.dequantise(file, out)
    seconds = time.perf_counter() - started
    from safetensors.torch import load_file

    return seconds, load_file(out / "model.safetensors")


def by_transformers(file: Path, _out: Path) -> tuple[float, Weights]:
    import torch
    from transformers import AutoModelForCausalLM

    started = time.perf_counter()
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    seconds = time.perf_counter() - started
    return seconds, dict(model.named_parameters())


WAYS: Mapping[str, Callable[[Path, Path], tuple[float, Weights]]] = {
    "tuneline": by_tuneline, "transformers": by_transformers
}  # fmt: skip


def digest(weights: Weights) -> str:
    """Of names, shapes, types and bytes. A head tied to the embeddings is not counted twice: it may be left out."""
    import torch

    whole = hashlib.sha256()
    for name in sorted(set(weights) - {"lm_head.weight"}):
        value = weights[name].detach().contiguous()
        whole.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        whole.update(value.view(torch.uint8).numpy().data)
    return whole.hexdigest()


def main() -> None:
    seconds, weights = WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"seconds": seconds, "digest": digest(weights)}))


if __name__ == "__main__":
    main()
