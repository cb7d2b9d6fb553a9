"""A GGUF file as a plain Hugging Face folder: weights unpacked to bfloat16, tokenizer and chat template kept.

The rule: the architectures in `architectures.ARCHITECTURES` and the splits in `tokenizer.SPLITS` are read here, straight
from the bytes, without torch. Everything else goes by way of transformers, which takes many times as long. A note says
which way was taken. Whatever the way, the file is first parsed here, so that a damaged one is refused at once.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core import events
from tasks.ml.gguf_base import architectures, kept, reader, tensors, tokenizer
from tasks.ml.gguf_base.facts import Facts


def dequantise(file: Path, into: Path) -> None:
    """Write into the folder `into` what `save_pretrained` would for a model that never was quantised, and the file's own
    blocks beside it (`kept`).

    ModelError: the file is damaged, or of an architecture or tokenizer that neither this nor transformers knows.
    """
    facts = Facts(reader.read(file))
    architecture, foreign = facts.architecture, tokenizer.missing(facts)
    if architecture in architectures.ARCHITECTURES:
        model = architectures.describe(facts)
        if foreign is None:
            tokenizer.write(facts, into)
        _write_configs(model.config, into)
        tensors.write(facts.gguf, model.places, into / "model.safetensors")
        packed = kept.write(facts.gguf, model.places, into)
        events.note(
            f"{file.name}: {len(model.places)} tensors unpacked to bfloat16, {packed} of them kept packed as well"
        )
    else:
        from tasks.ml.gguf_base import by_transformers

        events.note(f"{file.name} is read by transformers: its architecture is {architecture!r}")
        by_transformers.write_model(file, into)
        foreign = foreign or "its model is read so"
    if foreign is not None:
        from tasks.ml.gguf_base import by_transformers

        events.note(f"the tokenizer of {file.name} is read by transformers: {foreign}")
        by_transformers.write_tokenizer(file, into)


def _write_configs(config: Mapping[str, Any], into: Path) -> None:
    version = {"transformers_version": importlib.metadata.version("transformers")}
    _write_json(into / "config.json", {**config, **version})
    kept = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config[key] is not None}
    plain = {"_from_model_config": True, "output_attentions": False, "output_hidden_states": False, "use_cache": True}
    _write_json(into / "generation_config.json", plain | kept | version)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
