"""A random two-layer model with a real BPE tokenizer and a real chat template: everything a base has, in 0.2 MB."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from tasks.core import layout
from tasks.data.rows import Message

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


Family = Literal["llama", "qwen", "qwen3", "gpt2"]
"""qwen: Qwen2, with biases on q, k and v; qwen3: without, with normed queries and keys; gpt2: Conv1D, learned positions,
dropout, biases everywhere."""
FAMILIES: tuple[Family, ...] = get_args(Family)


def make_base(
    folder: Path, family: Family = "llama", *,
    layers: int = 2, seed: int = 0, tie: bool = True, vocabulary: int = 512, dropout: float = 0.1, hidden: int = 32,
) -> Path:  # fmt: skip
    """Write the base; equal arguments give equal bytes. `dropout` is GPT-2's: the other families have none."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder, vocabulary)
    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        "vocab_size": size, "num_hidden_layers": layers, "tie_word_embeddings": tie,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if family != "llama":
        shared["initializer_range"] = 0.1  # larger than usual, so that what a layer does shows in the loss
    if family == "gpt2":
        rates = dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), dropout)
        config = AutoConfig.for_model(
            "gpt2", n_embd=hidden, n_head=4, n_inner=2 * hidden, n_positions=512, **rates, **shared
        )
    else:
        kind = {"llama": "llama", "qwen": "qwen2", "qwen3": "qwen3"}[family]
        config = AutoConfig.for_model(
            kind, hidden_size=hidden, intermediate_size=2 * hidden, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, **({"head_dim": hidden // 4} if family == "qwen3" else {}), **shared,
        )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):  # zeros would hide one that is left out
                value.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, vocabulary: int = 512) -> int:
    """A byte-level BPE tokenizer trained on the sample corpus; its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    texts = [m["content"] for row in sample_rows()[:200] for m in row["messages"]]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return int(tokenizer.get_vocab_size())


def sample_rows() -> list[dict[str, Any]]:
    """The shipped corpus, in the order of its arrivals."""
    files = sorted((Path(__file__).parent.parent / "data" / "sample").glob("day*.jsonl"))
    assert len(files) == 3
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def conversations(count: int) -> list[list[Message]]:
    """The first rows of the shipped corpus, as the tokenizer takes them."""
    return [[Message.model_validate(turn) for turn in row["messages"]] for row in sample_rows()[:count]]


def write_rows(file: Path, count: int, start: int = 0) -> Path:
    """Some rows of the sample corpus as a landing file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in sample_rows()[start : start + count]]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def make_raw(out: Path, *counts: int) -> Path:
    """A corpus of the first rows of the sample corpus, as ingests leave it: a data version a count, by default one of 60."""
    from tasks.core import manifest
    from tasks.core.sections import DataParams
    from tasks.data import formats, shards

    left = iter(sample_rows())
    with manifest.staged(out) as folder:
        for number, count in enumerate(counts or (60,), start=1):
            with shards.Writer(folder, number) as writer:
                for value in islice(left, count):
                    writer.write(formats.to_row(value, source="sample", params=DataParams()).to_line())
        facts = {"rows": sum(counts or (60,)), "forgotten": []}
        manifest.seal(folder, step="ingest", inputs={}, params={}, facts=facts)
    return out


SUITES = Path(__file__).parents[1] / layout.SUITES


ANY_PRICE = dict.fromkeys(("perplexity", "kl", "kl_p99", "agreement", "drop"))
"""A budget that no format breaks: random weights in 4 bits find another token likeliest."""


def params(base: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """params.yaml for a tiny run: seconds on a processor."""
    values: dict[str, dict[str, Any]] = {
        "fetch": {"ref": str(base)},
        "data": {},
        "prepare": {"splits": {"valid": 0.1, "test": 0.3}},
        "merge": {"dtype": "base"},
        "train": {"rank": 4, "epochs": 2, "launch": {"dtype": "float32"}, "batch": {"packs": 1, "micro_tokens": 256}},
        "quantize": {"formats": ["nf4"], "calibration": 4, "held_out": 4, "second_try": True, "budget": ANY_PRICE},
        "evaluate": {
            "metrics": ["exact_match", "chrf"],
            "suites": ["general"],
            "suite_items": 1,
            "max_new_tokens": 4,
            "batch_size": 8,
        },
        "report": {"samples": 2},
        "publish": {"name": "tiny"},
        "promote": {},
        "trigger": {},
        "limits": {},
    }
    for section, changes in sections.items():
        values.setdefault(section, {}).update(changes)
    return values
