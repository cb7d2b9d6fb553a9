"""Small GGUF files as llama.cpp's own writer makes them: Llama-, Qwen- and GPT-2-shaped, in any number format."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from tests import tiny

HIDDEN, INNER, LAYERS, HEADS, GROUPS, WINDOW = 256, 1024, 2, 4, 2, 1024
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,)}
"""Where a block's half-precision scales stand, for types that the writer can't quantise to."""


@functools.cache
def vocabulary() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tiny tokenizer's tokens in the order of their ids, and its merges."""
    with tempfile.TemporaryDirectory() as folder:
        tiny.write_tokenizer(Path(folder))
        model = json.loads((Path(folder) / "tokenizer.json").read_bytes())["model"]
    return tuple(sorted(model["vocab"], key=model["vocab"].get)), tuple(" ".join(pair) for pair in model["merges"])


def write(
    file: Path, architecture: str = "llama", *, types: tuple[str, ...] = ("Q4_1",), tied: bool = True,
    split: str = "gpt-2", head: int = 64, facts: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
) -> Path:  # fmt: skip
    """Matrices take the types in turn. `facts` and `tensors` replace or (None) leave out what the file would hold."""
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in (_facts(architecture, split, head) | dict(facts or {})).items():
        _put(writer, key, value)
    random = np.random.default_rng(0)
    matrices = 0
    changed = dict(tensors or {})
    for name, shape in (_shapes(architecture, tied, head) | dict.fromkeys(changed, ())).items():
        values = random.standard_normal(shape).astype(np.float32) * 0.1
        values = changed.get(name, values)
        if values is None:
            continue
        if values.ndim < 2 or name == "position_embd.weight":
            writer.add_tensor(name, values.astype(np.float32))
            continue
        kind = Type[types[matrices % len(types)]]
        matrices += 1
        writer.add_tensor(name, quantised(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantised(values: np.ndarray, kind: Type) -> np.ndarray:
    """The values in that type; where the writer can't, arbitrary blocks with small scales."""
    if kind.name not in _SCALES:
        return gguf.quantize(values, kind)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(values.shape[0]).integers(0, 256, (values.size // elements, size), dtype=np.uint8)
    for place in _SCALES[kind.name]:
        blocks[:, place : place + 2] = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    return blocks.reshape(*values.shape[:-1], -1)


def _facts(architecture: str, split: str, head: int) -> dict[str, Any]:
    tokens, merges = vocabulary()
    facts: dict[str, Any] = {
        "general.name": "Tiny", f"{architecture}.block_count": LAYERS, f"{architecture}.context_length": WINDOW,
        f"{architecture}.embedding_length": HIDDEN, f"{architecture}.feed_forward_length": INNER,
        f"{architecture}.attention.head_count": HEADS,
    }  # fmt: skip
    if architecture == "gpt2":
        facts["gpt2.attention.layer_norm_epsilon"] = 1e-5
    else:
        facts |= {
            f"{architecture}.attention.head_count_kv": GROUPS, f"{architecture}.rope.freq_base": 12345.0,
            f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5, f"{architecture}.attention.key_length": head,
            f"{architecture}.rope.dimension_count": head,
        }  # fmt: skip
    return facts | {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": split, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(tiny.SPECIAL) + [1] * (len(tokens) - len(tiny.SPECIAL)),
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": tiny.TEMPLATE,
    }  # fmt: skip


def _put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, list(value))


def _shapes(architecture: str, tied: bool, head: int) -> dict[str, tuple[int, ...]]:
    size = len(vocabulary()[0])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (size, HIDDEN), "output_norm.weight": (HIDDEN,)}
    if architecture == "gpt2":
        shapes |= {"position_embd.weight": (WINDOW, HIDDEN), "output_norm.bias": (HIDDEN,)}
    if not tied:
        shapes["output.weight"] = (size, HIDDEN)
    for place in range(LAYERS):
        layer = _gpt2_layer() if architecture == "gpt2" else _layer(architecture, head)
        shapes |= {f"blk.{place}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer(architecture: str, head: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (HIDDEN,), "attn_q.weight": (HEADS * head, HIDDEN), "attn_k.weight": (GROUPS * head, HIDDEN),
        "attn_v.weight": (GROUPS * head, HIDDEN), "attn_output.weight": (HIDDEN, HEADS * head),
        "ffn_norm.weight": (HIDDEN,), "ffn_gate.weight": (INNER, HIDDEN), "ffn_up.weight": (INNER, HIDDEN),
        "ffn_down.weight": (HIDDEN, INNER),
    }  # fmt: skip
    if architecture == "qwen2":
        shapes |= {"attn_q.bias": (HEADS * head,), "attn_k.bias": (GROUPS * head,), "attn_v.bias": (GROUPS * head,)}
    if architecture == "qwen3":
        shapes |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    return shapes


def _gpt2_layer() -> dict[str, tuple[int, ...]]:
    norms = {f"{name}.{kind}": (HIDDEN,) for name in ("attn_norm", "ffn_norm") for kind in ("weight", "bias")}
    sides = {
        "attn_qkv": (3 * HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }  # fmt: skip
    linear = {f"{name}.weight": shape for name, shape in sides.items()}
    return norms | linear | {f"{name}.bias": (shape[0],) for name, shape in sides.items()}
