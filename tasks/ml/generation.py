"""Greedy answers in batches of like length: deterministic, padded on the left, bounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tasks.core import events
from tasks.core.sections import EvaluateParams
from tasks.data.chatset import Example
from tasks.data.tokens import ChatTokenizer
from tasks.ml.tuned import Runner


def answer(
    runner: Runner, tokenizer: ChatTokenizer, examples: Sequence[Example], params: EvaluateParams, what: str
) -> tuple[list[str], int]:
    """The model's answer to each row's prompt, in the rows' order, and how many tokens were generated."""
    prompts = [tokenizer.prompt(example.conversation, example.functions) for example in examples]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]), reverse=True)
    texts, generated = [""] * len(prompts), 0
    for start in range(0, len(order), params.batch_size):
        places = order[start : start + params.batch_size]
        for place, ids in zip(places, _generate(runner, [prompts[i] for i in places], tokenizer, params), strict=True):
            texts[place] = tokenizer.decode(ids)
            generated += len(ids)
        events.progress(what, start + len(places), len(order))
    return texts, generated


def _generate(
    runner: Runner, prompts: Sequence[Sequence[int]], tokenizer: ChatTokenizer, params: EvaluateParams
) -> list[list[int]]:
    """New ids a prompt, up to and with the token that ends the turn."""
    width, pad = max(map(len, prompts)), min(tokenizer.ends)
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=runner.model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=runner.model.device)
    with torch.inference_mode():
        out = runner.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=params.max_new_tokens, do_sample=False,
            eos_token_id=sorted(tokenizer.ends), pad_token_id=pad,
        )  # fmt: skip
    return [_until_end(row, tokenizer.ends) for row in out[:, width:].tolist()]


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: stop + 1]
