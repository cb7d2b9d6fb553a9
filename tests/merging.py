"""Random bases of several architectures, adapters on them as PEFT saves them, and what both answer together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from tasks.core import manifest
from tasks.core.manifest import Manifest
from tasks.core.params import Params
from tasks.core.sections import MergeParams, TrainParams
from tasks.fetch import fetch
from tasks.merge import merge
from tasks.ml import loading, methods
from tasks.ml.tuned import Ahead
from tasks.prepare import prepare
from tests import tiny

GPT2 = ["c_attn", "c_fc", "attn.c_proj"]


def make(folder: Path, kind: str, **changes: Any) -> Path:
    """Llama with its own head or a tied one, Qwen2 with biases, GPT-2 with turned weights, Qwen3 with experts.

    `changes`: what `save_pretrained` is told, and `tie` and `dtype`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    tie, dtype = changes.pop("tie", kind in ("tied", "qwen", "gpt2")), changes.pop("dtype", torch.float32)
    shape: dict[str, Any] = {
        "vocab_size": 160, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": tie,
    }  # fmt: skip
    names = {"qwen": "qwen2", "gpt2": "gpt2", "moe": "qwen3_moe"}
    if kind == "gpt2":
        shape |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        shape = {name: value for name, value in shape.items() if name.startswith(("n_", "vocab", "bos", "eos", "tie"))}
    elif kind == "moe":
        shape |= {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(names.get(kind, "llama"), **shape))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.1)
    model.to(dtype).save_pretrained(folder, **changes)
    return folder


def train(base: Path, config: Any, into: Path) -> Path:
    """An adapter with every trainable tensor moved at random, saved as PEFT saves it."""
    return train_on(loading.load(base, torch.float32), config, into)


def train_on(model: Any, config: Any, into: Path) -> Path:
    """As `train`, on a model that is loaded."""
    torch.manual_seed(1)
    tuned: Any = get_peft_model(model, config)
    with torch.no_grad():
        for value in tuned.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.05)
    tuned.save_pretrained(into, save_embedding_layers=False)
    return into


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(3, 67)[None]).logits


def beside(base: Path, adapter: Path) -> Any:
    return PeftModel.from_pretrained(loading.load(base, torch.float32), str(adapter)).eval()


def workspace(folder: Path, **shape: Any) -> Path:
    """A base and a training set, as the steps leave them: `base` and `chat`."""
    tiny.make_base(folder / "tiny", "qwen3", **shape)
    params = Params.model_validate(tiny.params(folder / "tiny"))
    fetch(params.fetch, out=folder / "base")
    tiny.make_raw(folder / "raw")
    prepare(params.prepare, raw=folder / "raw", base=folder / "base", out=folder / "chat", report=folder / "report")
    return folder


def attached(work: Path, out: Path, *, moved: float = 0.0, seed: int = 0, **chosen: Any) -> Path:
    """An adapter as it begins, or moved at random from there, sealed as `train` does it."""
    params = TrainParams.model_validate({"rank": 4, "launch": {"dtype": "float32"}, **chosen})
    method, options = methods.find(params)
    kind = method.base(options)
    torch.manual_seed(seed)
    model = loading.load(work / "base", torch.float32, held=kind).requires_grad_(False)
    tuned = method.attach(model, params, options, Ahead(1, ()))
    with torch.no_grad():
        for value in tuned.trainable().values():
            value.add_(torch.randn_like(value) * moved)
    with manifest.staged(out) as folder:
        tuned.save(folder)
        facts = {"method": params.method, "dtype": "float32", "base": kind}
        inputs = {"base": manifest.read(work / "base").digest}
        manifest.seal(folder, step="train", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)
    return out


def merged(work: Path, adapter: Path, out: Path, **params: Any) -> Manifest:
    return merge(
        MergeParams.model_validate(params), base=work / "base", adapter=adapter, chat=work / "chat", out=out
    )  # fmt: skip
