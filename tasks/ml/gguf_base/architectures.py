"""GGUF's names and layouts for a model's parts, and Hugging Face's: one function an architecture.

The facts come from llama.cpp's converter, which is undone here: its tensor names (gguf-py, tensor_mapping.py), the
interleaved rows of Llama's query and key heads, GPT-2's transposed matrices. What a config says beside the file's facts
are the constants that `transformers` writes for such a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.ml.gguf_base import rotary
from tasks.ml.gguf_base.facts import Facts


@dataclass(frozen=True)
class Place:
    """Where one tensor of the file goes, and its `shape` there, rows first.

    `heads`: of how many heads the halves of the rows are interleaved (0: none); `transposed`: the model keeps it on its
    side; `linear`: it is a linear layer's weight.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    transposed: bool = False
    linear: bool = False


@dataclass(frozen=True)
class Model:
    """`config` as config.json holds it; `places` by the file's own tensor names."""

    config: Mapping[str, Any]
    places: Mapping[str, Place]


def describe(facts: Facts) -> Model:
    """ModelError: a fact or a tensor is missing, has a wrong size, or has no place in such a model."""
    model = ARCHITECTURES[facts.architecture](facts)
    tensors = facts.gguf.tensors
    for name, place in model.places.items():
        if name not in tensors:
            facts.refuse(f"it lacks the tensor {name!r}")
        if tensors[name].shape != place.shape:
            facts.refuse(f"the tensor {name!r} has the shape {tensors[name].shape}, its metadata say {place.shape}")
    foreign = sorted(tensors.keys() - model.places.keys() - {rotary.TENSOR})
    if foreign:
        facts.refuse(f"its tensor {foreign[0]!r} has no place in a {facts.architecture} model as known here")
    return model


@dataclass(frozen=True)
class _Sizes:
    layers: int
    hidden: int
    inner: int
    heads: int
    groups: int
    head: int
    vocabulary: int
    window: int


def _sizes(facts: Facts, head: int | None) -> _Sizes:
    layers = facts.whole(".block_count", most=len(facts.gguf.tensors))
    hidden, heads = facts.whole(".embedding_length"), facts.whole(".attention.head_count")
    groups = facts.whole(".attention.head_count_kv") if facts.has(".attention.head_count_kv") else heads
    if head is None and hidden % heads:
        facts.refuse(f"{hidden} dimensions can't be shared by {heads} attention heads")
    if heads % groups:
        facts.refuse(f"{heads} attention heads can't share {groups} key and value heads")
    tokens = facts.texts("tokenizer.ggml.tokens")
    vocabulary = facts.whole(".vocab_size") if facts.has(".vocab_size") else len(tokens)
    if len(tokens) > vocabulary:
        facts.refuse(f"it has {len(tokens)} tokens and says {vocabulary}")
    return _Sizes(
        layers, hidden, facts.whole(".feed_forward_length"), heads, groups, head or hidden // heads, vocabulary,
        facts.whole(".context_length"),
    )  # fmt: skip


def _common(facts: Facts, kind: str, name: str, vocabulary: int) -> dict[str, Any]:
    ids = {
        f"{token}_token_id": facts.whole(f"tokenizer.ggml.{key}_token_id", least=0, most=vocabulary - 1)
        if facts.has(f"tokenizer.ggml.{key}_token_id")
        else None
        for token, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    if ids["unk_token_id"] is None:
        del ids["unk_token_id"]
    named = {"_model_name_or_path": facts.text("general.name")} if facts.has("general.name") else {}
    tied = "output.weight" not in facts.gguf.tensors
    return {
        **named, "architectures": [name], "dtype": "bfloat16", "initializer_range": 0.02, "model_type": kind,
        "tie_word_embeddings": tied, "use_cache": True, "vocab_size": vocabulary, **ids,
    }  # fmt: skip


def _decoder(facts: Facts, sizes: _Sizes) -> dict[str, Any]:
    """What the configs of Llama and of those after it have in common."""
    return {
        "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": sizes.hidden, "intermediate_size": sizes.inner,
        "max_position_embeddings": sizes.window, "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers, "num_key_value_heads": sizes.groups,
        "rms_norm_eps": facts.real(".attention.layer_norm_rms_epsilon"),
        "rope_parameters": rotary.parameters(facts, sizes.head),
    }  # fmt: skip


def _outer(facts: Facts, sizes: _Sizes, embedding: str, norm: str) -> dict[str, Place]:
    """Embeddings, the last norm, and the head where it is not the embeddings again."""
    table = (sizes.vocabulary, sizes.hidden)
    places = {"token_embd.weight": Place(embedding, table), "output_norm.weight": Place(norm, (sizes.hidden,))}
    if "output.weight" in facts.gguf.tensors:
        places["output.weight"] = Place("lm_head.weight", table)
    return places


def _layer(sizes: _Sizes, place: int, *, interleaved: bool) -> dict[str, Place]:
    """The tensors that every layer of Llama and of those after it has."""
    queries, keys = sizes.heads * sizes.head, sizes.groups * sizes.head
    hidden, inner, there = sizes.hidden, sizes.inner, f"model.layers.{place}"
    q, k = (sizes.heads, sizes.groups) if interleaved else (0, 0)
    return {
        f"blk.{place}.{name}.weight": found
        for name, found in {
            "attn_norm": Place(f"{there}.input_layernorm.weight", (hidden,)),
            "attn_q": Place(f"{there}.self_attn.q_proj.weight", (queries, hidden), heads=q, linear=True),
            "attn_k": Place(f"{there}.self_attn.k_proj.weight", (keys, hidden), heads=k, linear=True),
            "attn_v": Place(f"{there}.self_attn.v_proj.weight", (keys, hidden), linear=True),
            "attn_output": Place(f"{there}.self_attn.o_proj.weight", (hidden, queries), linear=True),
            "ffn_norm": Place(f"{there}.post_attention_layernorm.weight", (hidden,)),
            "ffn_gate": Place(f"{there}.mlp.gate_proj.weight", (inner, hidden), linear=True),
            "ffn_up": Place(f"{there}.mlp.up_proj.weight", (inner, hidden), linear=True),
            "ffn_down": Place(f"{there}.mlp.down_proj.weight", (hidden, inner), linear=True),
        }.items()
    }


def _llama(facts: Facts) -> Model:
    head = facts.whole(".rope.dimension_count") if facts.has(".rope.dimension_count") else None
    sizes = _sizes(facts, head)
    config = {
        "attention_bias": False, "head_dim": sizes.head, "mlp_bias": False, "pretraining_tp": 1,
    }  # fmt: skip
    places = _outer(facts, sizes, "model.embed_tokens.weight", "model.norm.weight")
    for place in range(sizes.layers):
        places |= _layer(sizes, place, interleaved=True)
    common = _common(facts, "llama", "LlamaForCausalLM", sizes.vocabulary)
    return Model(common | _decoder(facts, sizes) | config, places)


def _windowed(sizes: _Sizes) -> dict[str, Any]:
    """What Qwen's configs say of a sliding window, which none of its GGUF files has."""
    return {
        "layer_types": ["full_attention"] * sizes.layers, "max_window_layers": 28, "sliding_window": None,
        "use_sliding_window": False,
    }  # fmt: skip


def _qwen2(facts: Facts) -> Model:
    sizes = _sizes(facts, None)
    places = _outer(facts, sizes, "model.embed_tokens.weight", "model.norm.weight")
    for place in range(sizes.layers):
        places |= _layer(sizes, place, interleaved=False)
        for name, there, heads in (("q", "q", sizes.heads), ("k", "k", sizes.groups), ("v", "v", sizes.groups)):
            bias = Place(f"model.layers.{place}.self_attn.{there}_proj.bias", (heads * sizes.head,))
            places[f"blk.{place}.attn_{name}.bias"] = bias
    common = _common(facts, "qwen2", "Qwen2ForCausalLM", sizes.vocabulary)
    return Model(common | _decoder(facts, sizes) | _windowed(sizes), places)


def _qwen3(facts: Facts) -> Model:
    sizes = _sizes(facts, facts.whole(".attention.key_length"))
    places = _outer(facts, sizes, "model.embed_tokens.weight", "model.norm.weight")
    for place in range(sizes.layers):
        places |= _layer(sizes, place, interleaved=False)
        for name in ("q_norm", "k_norm"):
            norm = Place(f"model.layers.{place}.self_attn.{name}.weight", (sizes.head,))
            places[f"blk.{place}.attn_{name}.weight"] = norm
    common = _common(facts, "qwen3", "Qwen3ForCausalLM", sizes.vocabulary)
    own = {"attention_bias": False, "head_dim": sizes.head}
    return Model(common | _decoder(facts, sizes) | _windowed(sizes) | own, places)


def _gpt2_layer(sizes: _Sizes, place: int) -> dict[str, Place]:
    hidden, inner, here, there = sizes.hidden, sizes.inner, f"blk.{place}", f"transformer.h.{place}"
    places: dict[str, Place] = {}
    for name, part in (("attn_norm", "ln_1"), ("ffn_norm", "ln_2")):
        for kind in ("weight", "bias"):
            places[f"{here}.{name}.{kind}"] = Place(f"{there}.{part}.{kind}", (hidden,))
    for name, part, rows, columns in (
        ("attn_qkv", "attn.c_attn", 3 * hidden, hidden), ("attn_output", "attn.c_proj", hidden, hidden),
        ("ffn_up", "mlp.c_fc", inner, hidden), ("ffn_down", "mlp.c_proj", hidden, inner),
    ):  # fmt: skip
        shape = (rows, columns)
        places[f"{here}.{name}.weight"] = Place(f"{there}.{part}.weight", shape, transposed=True, linear=True)
        places[f"{here}.{name}.bias"] = Place(f"{there}.{part}.bias", (rows,))
    return places


def _gpt2(facts: Facts) -> Model:
    sizes = _sizes(facts, None)
    places = _outer(facts, sizes, "transformer.wte.weight", "transformer.ln_f.weight")
    places["output_norm.bias"] = Place("transformer.ln_f.bias", (sizes.hidden,))
    places["position_embd.weight"] = Place("transformer.wpe.weight", (sizes.window, sizes.hidden))
    for place in range(sizes.layers):
        places |= _gpt2_layer(sizes, place)
    config = {
        "activation_function": "gelu_new", "add_cross_attention": False, "attn_pdrop": 0.1, "embd_pdrop": 0.1,
        "layer_norm_epsilon": facts.real(".attention.layer_norm_epsilon"), "n_embd": sizes.hidden,
        "n_head": sizes.heads, "n_inner": None if sizes.inner == 4 * sizes.hidden else sizes.inner,
        "n_layer": sizes.layers, "n_positions": sizes.window, "reorder_and_upcast_attn": False, "resid_pdrop": 0.1,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
        "summary_use_proj": True,
    }  # fmt: skip
    return Model(_common(facts, "gpt2", "GPT2LMHeadModel", sizes.vocabulary) | config, places)


ARCHITECTURES: Mapping[str, Callable[[Facts], Model]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "gpt2": _gpt2,
}  # fmt: skip
"""What is read here. Every other architecture goes by way of transformers."""
