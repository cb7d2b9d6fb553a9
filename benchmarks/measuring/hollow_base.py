"""A model of the shape of LLaMA 65 B whose layers but the first are zeros, in a file that has no blocks for them on the disk.

Memory does not ask what the weights are, and 131 GB of random ones would fit on few disks. One layer of real numbers, so
that something is learned.

python benchmarks/measuring/hollow_base.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.core import weights
from tasks.ml import loading, tensors

SHAPE = LlamaConfig(
    vocab_size=49_152, hidden_size=8192, intermediate_size=22_016, num_hidden_layers=80, num_attention_heads=64,
    tie_word_embeddings=False, architectures=["LlamaForCausalLM"], dtype="bfloat16", bos_token_id=1, eos_token_id=2,
)  # fmt: skip
"""LLaMA 65 B's (arXiv 2302.13971, table 2), with the vocabulary of the tokenizer that the rows are coded with."""
ZEROS = "model.layers."
FIRST = "model.layers.0."
STANDARD_DEVIATION = 0.02


def make(shape: LlamaConfig, out: Path) -> None:
    shape.save_pretrained(out)
    torch.manual_seed(0)
    empty: LlamaForCausalLM = loading.empty(out, torch.bfloat16)  # pyright: ignore[reportAssignmentType]
    sizes = {name: ("BF16", tuple(value.shape), 2 * value.numel()) for name, value in empty.named_parameters()}
    head = weights.compose(sizes, {"format": "pt"})
    with (out / "model.safetensors").open("wb") as file:
        file.write(head)
        place = len(head)
        for name, (_, size, count) in sizes.items():
            if not name.startswith(ZEROS) or name.startswith(FIRST) or len(size) == 1:
                value = torch.ones(size) if len(size) == 1 else torch.randn(size) * STANDARD_DEVIATION
                tensors.write_from(file.fileno(), value.bfloat16(), place)
            place += count
        file.truncate(place)


if __name__ == "__main__":
    make(SHAPE, Path(sys.argv[1]))
