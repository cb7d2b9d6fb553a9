"""Whether an adapter on disk is A and B beside linear layers and nothing else. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config", "target_parameters",
    "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
"""What makes a LoRA config mean something else."""
BESIDE = ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias")
"""What can train in addition."""


def why_not(adapter: Path) -> str | None:
    """What it is besides, in a few words; None: a plain LoRA."""
    file = adapter / "adapter_config.json"
    if not file.is_file():
        return "it is in tuneline's own format"
    config: dict[str, Any] = json.loads(file.read_bytes())
    if config["peft_type"] != "LORA":
        return f"it is of PEFT's kind {config['peft_type']}"
    if config["bias"] != "none":
        return f"it also trains biases (bias={config['bias']})"
    return next((f"its config has {name}" for name in (*BESIDE, *VARIANTS) if config.get(name)), None)
