"""4-bit weights by llm-compressor. Runs in the environment that `make formats` makes, where nothing of tuneline is:

    python -I compress.py JOB

JOB is a JSON file: `merged` and `into` (folders), `method` (gptq or awq), `dtype`, `group` (weights a scale), `keep`
(names of modules that stay as they are), `rows` (token ids of each calibration row), `threads`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def modifiers(method: str, group: int, ignore: list[str]) -> list[Any]:
    """GPTQ (Frantar et al. 2022, arXiv 2210.17323) is symmetric; AWQ (Lin et al. 2023, arXiv 2306.00978) scales the
    inputs, and has a zero a group."""
    quantization = importlib.import_module("llmcompressor.modifiers.quantization")
    weights = {
        "num_bits": 4, "type": "int", "strategy": "group", "group_size": group, "symmetric": method == "gptq"
    }  # fmt: skip
    options: dict[str, Any] = {
        "ignore": ignore, "config_groups": {"linear": {"targets": ["Linear"], "weights": weights}}
    }  # fmt: skip
    if method == "gptq":
        return [quantization.GPTQModifier(**options)]
    awq = importlib.import_module("llmcompressor.modifiers.transform.awq")
    return [awq.AWQModifier(), quantization.QuantizationModifier(**options)]


def unpin() -> None:
    """llm-compressor 0.14's AWQ pins what it copies to an accelerator, and fails where there is none."""
    if not importlib.import_module("torch").accelerator.is_available():
        importlib.import_module("llmcompressor.pipelines.cache").IntermediatesCache.pin_memory = _stay


def _stay(*_: object) -> None:
    return None


def compress(job: dict[str, Any]) -> None:
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    unpin()
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["merged"], dtype=getattr(torch, job["dtype"]), local_files_only=True, use_safetensors=True,
        trust_remote_code=False,
    )  # fmt: skip
    heads = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    kept = tuple(f"{name}." for name in job["keep"])
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    ignore = [name for name in linear if name in heads or f"{name}.".startswith(kept)]
    rows = {"input_ids": job["rows"], "attention_mask": [[1] * len(row) for row in job["rows"]]}
    importlib.import_module("llmcompressor").oneshot(
        model=model, dataset=importlib.import_module("datasets").Dataset.from_dict(rows),
        recipe=modifiers(job["method"], job["group"], ignore), num_calibration_samples=len(job["rows"]),
        max_seq_length=max(map(len, job["rows"])), shuffle_calibration_samples=False, pipeline="sequential",
    )  # fmt: skip
    model.name_or_path = model.config._name_or_path = ""
    model.save_pretrained(job["into"], save_compressed=True)


if __name__ == "__main__":
    compress(json.loads(Path(sys.argv[1]).read_bytes()))
