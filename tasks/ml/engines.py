"""Which engine answers for a Hugging Face folder: vLLM, as it is served, or transformers. Loads no torch."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from pathlib import Path
from typing import Any

from tasks.core import events
from tasks.core.errors import ParamsError
from tasks.core.sections import Engine

VERSION = "0.33.0"
"""Of vLLM, whose API tasks/ml/vllm_runtime.py and whose rules on adapters `refuses` are written by."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


def missing() -> str | None:
    """Why this machine can't serve by vLLM, or None."""
    if not importlib.util.find_spec("vllm"):
        return f"vLLM is not installed: pip install 'vllm>={VERSION}'"
    return None if accelerators() else "vLLM needs an NVIDIA GPU, and the driver shows none"


def accelerators() -> int:
    """GPUs that NVIDIA's driver shows this process."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value


def check(engine: Engine) -> None:
    """ParamsError: vLLM is asked for and can't be had here."""
    if engine == "vllm" and (why := missing()):
        raise ParamsError(f"evaluate.engine: vllm: {why}; or set it to auto or transformers")


def is_vllm(engine: Engine, adapter: Path | None = None, *, held: str = "plain", dtype: str = "bfloat16") -> bool:
    """Whether vLLM answers for a folder, with the adapter if there is one. Where it can't serve that adapter, or a base held
    in another way than its files, transformers does, and it is said.

    ParamsError as `check` says."""
    check(engine)
    if engine == "transformers" or missing():
        return False
    why = f"the base is held in {held}" if held != "plain" else refuses(adapter, dtype) if adapter else None
    if why:
        events.warning(f"{adapter} is answered for by transformers, not vLLM: {why}")
    return why is None


def refuses(adapter: Path, dtype: str) -> str | None:
    """Why vLLM would not serve the adapter on a base that computes in `dtype`, or None."""
    file = adapter / "adapter_config.json"
    config: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    if config.get("peft_type") != "LORA":
        return f"it serves LoRA alone, and this is {config.get('peft_type', 'no PEFT adapter')}"
    if dtype == "float32":
        return "it computes LoRA in 16 bits alone, and the base is in float32"
    for name in ("use_dora", "lora_bias", "modules_to_save", "layer_replication", "alora_invocation_tokens"):
        if config.get(name):
            return f"it does not know {name}"
    if (bias := config.get("bias", "none")) != "none":
        return f"it does not know bias={bias}"
    if (start := str(config.get("init_lora_weights")).lower()).startswith(CHANGES_BASE):
        return f"init_lora_weights={start} means another base"
    return None if rank(config) <= RANKS[-1] else f"its rank {rank(config)} is above {RANKS[-1]}"


def rank(config: dict[str, Any]) -> int:
    """The highest of an adapter's config."""
    return max(config["r"], *(config.get("rank_pattern") or {}).values(), 1)
