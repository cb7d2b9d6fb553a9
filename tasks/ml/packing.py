"""Rows laid end to end in one sequence, each seeing only itself: no padding, no cross-contamination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tasks.data.chatset import Tokens
from tasks.ml import head

if TYPE_CHECKING:
    from tasks.ml.tuned import Runner


@dataclass(frozen=True)
class Pack:
    """`ids` and `positions` have shape (1, tokens). `predictors[i]` is the place whose output predicts `targets[i]`."""

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    predictors: Tensor
    targets: Tensor


def packs(examples: Sequence[Tokens], budget: int) -> Iterator[Pack]:
    """Split a batch into packs of at most `budget` tokens (a longer row is a pack of its own), in order.

    Law: every token that carries loss is the target of exactly one pack.
    """
    current: list[Tokens] = []
    for example in examples:
        if current and sum(len(e.ids) for e in current) + len(example.ids) > budget:
            yield pack(current)
            current = []
        current.append(example)
    if current:
        yield pack(current)


def pack(examples: Sequence[Tokens]) -> Pack:
    ids = torch.tensor([token for example in examples for token in example.ids])
    positions = torch.cat([torch.arange(len(example.ids)) for example in examples])
    # The first token of a row has no predictor: its neighbour on the left belongs to another row.
    loss = torch.tensor([mark and place > 0 for example in examples for place, mark in enumerate(example.loss)])
    targets = loss.nonzero().squeeze(1)
    return Pack(ids[None], positions[None], tuple(len(e.ids) for e in examples), targets - 1, ids[targets])


def loss_sum(model: PreTrainedModel, pack: Pack, noise: float = 0.0) -> Tensor:
    """Cross-entropy summed over the pack's targets, in float32; the head runs on their predictors alone.

    `noise` is NEFTune's alpha (Jain et al. 2023, arXiv 2310.05914): uniform noise of at most alpha / sqrt(L d) on the
    embeddings of a row of L tokens, in training only.
    """
    embeddings: Any = model.get_input_embeddings()
    states = embeddings(pack.ids.to(model.device))
    if noise and model.training:
        sizes = torch.tensor(pack.lengths).repeat_interleave(torch.tensor(pack.lengths)).to(states.device)
        bound = (noise / (sizes * states.shape[-1]).sqrt())[None, :, None]
        states = states + (torch.empty_like(states).uniform_(-1, 1) * bound).to(states.dtype)
    out = model.base_model(
        inputs_embeds=states, position_ids=pack.positions.to(model.device), lengths=pack.lengths, use_cache=False
    ).last_hidden_state
    return head.loss_sum(out[0, pack.predictors.to(out.device)], *_head(model), pack.targets.to(out.device))


def _head(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    layer: Any = model.get_output_embeddings()
    return layer.weight, layer.bias


def row_losses(runner: Runner, examples: Sequence[Tokens]) -> Iterator[tuple[Tokens, float, int]]:
    """Each row's mean loss over its targets and their number, without gradients."""
    with torch.inference_mode():
        for example in examples:
            single = pack([example])
            count = len(single.targets)
            yield example, (runner.loss_sum(single, 0.0).item() / count if count else 0.0), count
