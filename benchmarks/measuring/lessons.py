"""What the trainers are measured on: a lesson from real conversations, with the initial weights of its adapter.

Without torch: the process that measures stays small.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.measuring import corpus
from benchmarks.peers.lesson import IGNORED, Lesson, Row
from tasks.core.errors import DataError
from tasks.data.rows import Message
from tasks.data.rows import Row as Conversation
from tasks.data.tokens import ChatTokenizer

SEED = 1
RANK, ALPHA = 16, 32
LEARNING_RATE = 2e-4
MAX_GRAD_NORM = 1.0
READ_AT_ONCE = 64


@dataclass(frozen=True)
class Shape:
    """What a model is made of, from its files alone. `layers`: (out, in) of each linear layer, the head not among them."""

    layers: dict[str, tuple[int, int]]
    hidden: int
    vocabulary: int
    blocks: int


def shape(base: Path) -> Shape:
    config: dict[str, Any] = json.loads((base / "config.json").read_bytes())
    sizes = dict[str, tuple[int, ...]]()
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, "numpy") as weights:
            sizes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    layers = {
        name.removesuffix(".weight"): size
        for name, size in sizes.items()
        if len(size) == 2 and "embed" not in name and "lm_head" not in name
    }
    return Shape(layers, config["hidden_size"], config["vocab_size"], config["num_hidden_layers"])


def make(base: Path, folder: Path, steps: int, longest: int, rows_a_step: int, rank: int = RANK) -> Lesson:
    """Real conversations in the corpus's order, those of more than `longest` tokens left out; `folder` gets the adapter.

    Law: equal arguments give equal lessons, and fewer steps the beginning of more.
    """
    wanted, rows = steps * rows_a_step, list[Row]()
    for row in _rows(base, longest):
        rows.append(row)
        if len(rows) == wanted:
            break
    return of_rows(base, folder, rows, rows_a_step, rank)


def of_rows(base: Path, folder: Path, rows: list[Row], rows_a_step: int, rank: int = RANK) -> Lesson:
    _write_adapter(base, folder, rank)
    return Lesson(base, folder, rank, ALPHA, LEARNING_RATE, MAX_GRAD_NORM, rows_a_step, rows)


def of_length(base: Path, folder: Path, tokens: int, length: int, steps: int, rank: int = RANK) -> Lesson:
    """Steps of about `tokens` tokens in rows of exactly `length`, real rows joined and cut; half of each is learned."""
    rows_a_step = max(1, tokens // length)
    source = (token for row in _rows(base, 1 << 20) for token in row.ids)
    ids = [[next(source) for _ in range(length)] for _ in range(steps * rows_a_step)]
    rows = [Row(row, [IGNORED] * (length // 2) + row[length // 2 :]) for row in ids]
    return of_rows(base, folder, rows, rows_a_step, rank)


def _rows(base: Path, longest: int) -> Iterator[Row]:
    """Endless."""
    conversations, tokenizer, number = corpus.read(SEED), ChatTokenizer(base), 0
    while True:
        some = [_conversation(conversations, place) for place in range(number, number + READ_AT_ONCE)]
        number += READ_AT_ONCE
        for coded in tokenizer.encode_many(some):
            if not isinstance(coded, DataError) and len(coded.ids) <= longest:
                labels = [token if learned else IGNORED for token, learned in zip(coded.ids, coded.loss, strict=True)]
                yield Row(coded.ids, labels)


def _conversation(source: corpus.Corpus, number: int) -> Conversation:
    messages = tuple(Message(role=role, content=text) for role, text in source.conversation(number))  # type: ignore[arg-type]
    return Conversation(id=str(number), messages=messages)


def _write_adapter(base: Path, folder: Path, rank: int) -> None:
    """PEFT's LoRA as it begins: A uniform within 1 / sqrt(in), which is Kaiming's with a = sqrt(5), and B zero."""
    folder.mkdir(exist_ok=True)
    random, layers, tensors = np.random.default_rng(SEED), shape(base).layers, dict[str, Any]()
    for name, (out, into) in layers.items():
        first = random.uniform(-1, 1, (rank, into)) / np.sqrt(into)
        tensors[f"base_model.model.{name}.lora_A.weight"] = first.astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.zeros((out, rank), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": ALPHA, "lora_dropout": 0.0,
        "bias": "none", "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "base_model_name_or_path": None, "inference_mode": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
