"""PEFT's way: the model in memory in its own dtype, `merge_and_unload`, `save_pretrained`.

python benchmarks/merging/by_peft.py BASE ADAPTER OUT
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    base, adapter, out = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True)
    tuned: Any = PeftModel.from_pretrained(model, adapter)
    tuned.merge_and_unload().save_pretrained(out)


if __name__ == "__main__":
    main()
