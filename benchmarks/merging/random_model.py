"""A random Llama in bfloat16 in several files, and a LoRA of rank 16 on all its linear layers: merging asks for no sense.

python benchmarks/merging/random_model.py OUT SHAPE    (OUT/base, OUT/adapter; SHAPE: 1.1B, 3B, small or tiny)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

RANK, ALPHA = 16, 32
SHARD_BYTES = 500 << 20

SHAPES: Mapping[str, Mapping[str, Any]] = {
    # TinyLlama's
    "1.1B": {
        "vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    # Llama 3.2 3B's
    "3B": {
        "vocab_size": 128_256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
    "small": {
        "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip


def main() -> None:
    out, shape = Path(sys.argv[1]), sys.argv[2]
    config = LlamaConfig(**SHAPES[shape], dtype="bfloat16")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    torch.manual_seed(0)
    write_base(model, out / "base")
    write_adapter(model, out / "adapter")


def write_base(model: LlamaForCausalLM, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    groups = list(_groups({name: value.shape for name, value in model.named_parameters()}))
    index: dict[str, str] = {}
    for number, shapes in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: (torch.randn(shape) * 0.02).bfloat16() for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shapes, file)
    total = sum(2 * value.numel() for value in model.parameters())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _groups(shapes: Mapping[str, torch.Size]) -> Iterator[dict[str, torch.Size]]:
    """The tensors of each file."""
    group, size = dict[str, torch.Size](), 0
    for name, shape in shapes.items():
        if group and size + 2 * shape.numel() > SHARD_BYTES:
            yield group
            group, size = {}, 0
        group[name] = shape
        size += 2 * shape.numel()
    yield group


def write_adapter(model: LlamaForCausalLM, folder: Path) -> None:
    """As training leaves it, in bfloat16 as the base: changes of about a hundredth of the weights."""
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "lm_head"
    }
    halves: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        key = f"base_model.model.{name}"
        halves[f"{key}.lora_A.weight"] = (torch.randn(RANK, layer.in_features) * layer.in_features**-0.5).bfloat16()
        halves[f"{key}.lora_B.weight"] = (torch.randn(layer.out_features, RANK) * 1e-3).bfloat16()
    targets = sorted({name.rpartition(".")[2] for name in layers})
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(str(folder))
    save_file(halves, folder / "adapter_model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
