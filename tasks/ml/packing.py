"""Rows laid end to end in one sequence, each seeing only itself: no padding, no cross-contamination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from tasks.data.chatset import Tokens
from tasks.ml import head

if TYPE_CHECKING:
    from tasks.ml.tuned import Runner


SHORTEST = 8
"""A common beginning of fewer tokens is not worth a segment of its own."""


@dataclass(frozen=True)
class Pack:
    """`ids` and `positions` have shape (1, tokens). `predictors[i]` is the place whose output predicts `targets[i]`.

    `lengths` are the rows' tokens in order. Where the rows begin alike, the first `shared` tokens stand once, as a
    segment of their own that all others see, and `lengths` counts the rows without it.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    predictors: Tensor
    targets: Tensor
    shared: int = 0


def packs(examples: Sequence[Tokens], budget: int, *, share: bool = False) -> Iterator[Pack]:
    """Split a batch into packs of at most `budget` tokens (a longer row is a pack of its own), in order.

    Law: every token that carries loss is the target of exactly one pack.
    """
    return (pack(group, share=share) for group in groups(examples, budget))


def groups(examples: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    """The rows of each pack."""
    current: list[Tokens] = []
    for example in examples:
        if current and sum(len(e.ids) for e in current) + len(example.ids) > budget:
            yield current
            current = []
        current.append(example)
    if current:
        yield current


def pack(examples: Sequence[Tokens], *, share: bool = False) -> Pack:
    """Lay rows end to end. Law: `share` changes no target's loss and no gradient, only how much is computed."""
    shared = common(examples) if share else 0
    ids, positions, predictors, targets = list(examples[0].ids[:shared]), list(range(shared)), list[int](), list[int]()
    for example in examples:
        offset = len(ids) - shared
        # The first token of a row has no predictor: its neighbour on the left belongs to another row.
        marked = [place for place, mark in enumerate(example.loss) if mark and place > 0]
        predictors += [place - 1 if place == shared else offset + place - 1 for place in marked]
        targets += [example.ids[place] for place in marked]
        ids += example.ids[shared:]
        positions += range(shared, len(example.ids))
    lengths = [len(example.ids) - shared for example in examples]
    return Pack(
        torch.tensor(ids)[None], torch.tensor(positions)[None], (shared, *lengths) if shared else tuple(lengths),
        torch.tensor(predictors, dtype=torch.long), torch.tensor(targets, dtype=torch.long), shared,
    )  # fmt: skip


def common(examples: Sequence[Tokens]) -> int:
    """Tokens with which all rows begin, before any that carries loss: a system prompt, the template's first lines.

    Each row keeps one of its own. 0 where that is too short to be worth it.
    """
    places = zip(*(example.ids for example in examples), strict=False)
    alike = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, places))
    unmarked = min(next((place for place, mark in enumerate(e.loss) if mark), len(e.loss)) for e in examples)
    length = min(alike, unmarked, min(len(example.ids) for example in examples) - 1)
    return length if length >= SHORTEST and len(examples) > 1 else 0


def loss_sum(model: PreTrainedModel, pack: Pack, noise: float = 0.0) -> Tensor:
    """Cross-entropy summed over the pack's targets, in float32; the head runs on their predictors alone."""
    return loss_of(model, pack, embed(model, pack, noise))


def embed(model: PreTrainedModel, pack: Pack, noise: float = 0.0) -> Tensor:
    """What the pack's tokens are for the first layer, shape (1, tokens, hidden).

    `noise` is NEFTune's alpha (Jain et al. 2023, arXiv 2310.05914): uniform noise of at most alpha / sqrt(L d) on the
    embeddings of a row of L tokens, in training only.
    """
    embeddings: Any = model.get_input_embeddings()
    states = embeddings(pack.ids.to(model.device))
    if noise and model.training:
        assert not pack.shared, "noise is drawn for each row: its length bounds it"
        sizes = torch.tensor(pack.lengths).repeat_interleave(torch.tensor(pack.lengths)).to(states.device)
        bound = (noise / (sizes * states.shape[-1]).sqrt())[None, :, None]
        states = states + (torch.empty_like(states).uniform_(-1, 1) * bound).to(states.dtype)
    return states


def loss_of(model: PreTrainedModel, pack: Pack, states: Tensor, before: Cache | None = None) -> Tensor:
    """As `loss_sum`, from the first layer's inputs. `before` holds keys and values that every token sees."""
    predicting = _predicting(model, pack, states, before)
    targets = pack.targets.to(predicting.device)
    layer: Any = model.get_output_embeddings()
    if type(layer) is nn.Linear:
        return head.loss_sum(predicting, layer.weight, layer.bias, targets)
    return F.cross_entropy(layer(predicting).float(), targets, reduction="sum")  # a head with an adapter of its own


def logits(model: PreTrainedModel, pack: Pack) -> Iterator[Tensor]:
    """What predicts the pack's targets, in order: float32, (at most head.CHUNK, vocabulary) at a time."""
    return logits_of(model, pack, embed(model, pack))


def logits_of(model: PreTrainedModel, pack: Pack, states: Tensor, before: Cache | None = None) -> Iterator[Tensor]:
    """As `logits`, from the first layer's inputs."""
    layer: Any = model.get_output_embeddings()
    for chunk in _predicting(model, pack, states, before).split(head.CHUNK):
        yield layer(chunk).float()


def _predicting(model: PreTrainedModel, pack: Pack, states: Tensor, before: Cache | None) -> Tensor:
    """What the head reads to predict the targets, shape (targets, hidden)."""
    out = model.base_model(
        inputs_embeds=states, position_ids=pack.positions.to(model.device), lengths=pack.lengths, shared=pack.shared,
        past_key_values=before, use_cache=False,
    ).last_hidden_state  # fmt: skip
    return out[0, pack.predictors.to(out.device)]


def row_losses(runner: Runner, examples: Sequence[Tokens]) -> Iterator[tuple[Tokens, float, int]]:
    """Each row's mean loss over its targets and their number, without gradients."""
    with torch.inference_mode():
        for example in examples:
            single = pack([example])
            count = len(single.targets)
            yield example, (runner.loss_sum(single, 0.0).item() / count if count else 0.0), count
