"""A model of the shape of Llama 3 8 B with random weights, as a folder: speed and memory do not ask what they are.

python benchmarks/measuring/random_base.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = LlamaConfig(
    vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=False,
)  # fmt: skip


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(SHAPE)
    model.save_pretrained(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
