"""Greedy answers in batches of like length: deterministic and bounded."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core import events
from tasks.core.sections import EvaluateParams
from tasks.data.tokens import ChatTokenizer
from tasks.ml.serving import Served


def answer(
    served: Served, tokenizer: ChatTokenizer, prompts: Sequence[Sequence[int]], params: EvaluateParams, what: str
) -> tuple[list[str], int]:
    """The model's answer to each prompt's ids, in their order, and how many tokens were generated. A runtime that batches by
    itself gets all of them at once."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]), reverse=True)
    texts, generated = [""] * len(prompts), 0
    size = max(1, len(order)) if served.batches else params.batch_size
    for start in range(0, len(order), size):
        places = order[start : start + size]
        answers = served.generate([prompts[place] for place in places], params.max_new_tokens, tokenizer.ends)
        for place, ids in zip(places, answers, strict=True):
            texts[place] = tokenizer.decode(ids)
            generated += len(ids)
        events.progress(what, start + len(places), len(order))
    return texts, generated
