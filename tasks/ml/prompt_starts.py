"""Where prompt learners start: tokens of the training rows or of a text, and what the base makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, cycle, islice
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
from transformers import AutoTokenizer, PreTrainedModel

from tasks.core.errors import ParamsError
from tasks.data.chatset import Reading


def of_rows(train: Reading, count: int) -> list[int]:
    """The first tokens of the training rows, in their order, once more from the start if there are too few."""
    rows: Iterable[Any] = (row.ids for place in range(len(train)) for row in train[place])
    return list(islice(cycle(chain.from_iterable(rows)), count))


def of_text(model: PreTrainedModel, text: str, count: int) -> list[int]:
    """The text's tokens, cut or repeated, by the tokenizer in the base's folder. ParamsError: it has none."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(model.name_or_path), local_files_only=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ParamsError("train.options.text has no tokens: give some words, or leave it out")
    return list(islice(cycle(ids), count))


@torch.no_grad()
def put_vectors(tuned: PeftModel, tokens: list[int]) -> None:
    """Set the vectors of a prompt to the embeddings of these tokens."""
    learner: Any = tuned
    ids = torch.tensor(tokens, device=tuned.device)
    learner.prompt_encoder["default"].embedding.weight.copy_(learner.get_input_embeddings()(ids))


@torch.no_grad()
def put_keys(tuned: PeftModel, tokens: list[int]) -> None:
    """Set a prefix to the keys and values that the bare model has for these tokens."""
    bare: Any = tuned.get_base_model()
    ids = torch.tensor([tokens], device=tuned.device)
    made = bare.base_model(input_ids=ids, lengths=(len(tokens),), use_cache=True).past_key_values
    initialize_kv_prefix_from_past_key_values(tuned, past_key_values=made)
