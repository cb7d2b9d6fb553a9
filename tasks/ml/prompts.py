"""PEFT's prompt learners on packed rows: trained vectors, or keys and values, before every row.

What stands before one row stands before all, so it is computed once a pack: as the common beginning that all rows see
(`Pack.shared`), or as keys without queries. Rows still see nothing of each other.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.config import PromptLearningConfig
from torch import Tensor
from transformers import Cache, PreTrainedModel

from tasks.core import events
from tasks.core.errors import ModelError, ParamsError
from tasks.data.chatset import Reading
from tasks.ml import packing, peft_tuned
from tasks.ml.packing import Pack
from tasks.ml.tuned import Runner, Tuned


def attach(model: PreTrainedModel, config: PromptLearningConfig, train: Reading) -> tuple[Tuned, PeftModel]:
    """The learner before the model, whose other trainable parameters (an adapter's) still train.

    ParamsError: the longest row of the training set leaves no room for it.
    """
    tokens = _tokens(config)
    budget = _check_room(model, tokens, train)
    training = [value for value in model.parameters() if value.requires_grad]
    tuned = peft_tuned.attach(model, config)
    for value in training:
        value.requires_grad_(True)
    events.note(f"{tokens} virtual tokens stand before each row: a row may have {budget} tokens")
    facts = {"virtual_tokens": tokens, "longest_row": budget}
    return Tuned(runner(tuned), partial(save, tuned), facts=facts), tuned


def save(tuned: PeftModel, folder: Path) -> None:
    """What the encoder makes is saved, not the encoder; it is made without dropout."""
    tuned.eval()
    peft_tuned.save(tuned, folder)


def runner(tuned: PeftModel) -> Runner:
    """The learner becomes a module of the bare model, so that its parameters are found there."""
    bare: Any = tuned.get_base_model()
    bare.prompt_encoder = tuned.prompt_encoder.train(bare.training)
    plain = Runner.of(bare)
    if _holds_keys(tuned):
        enter, generate = partial(_after_keys, tuned), tuned.generate
    else:
        enter, generate = partial(_after_vectors, tuned), partial(_generate, tuned)
    return replace(
        plain, loss_sum=lambda pack, noise: packing.loss_of(bare, *enter(pack, noise)),
        logits=lambda pack: packing.logits_of(bare, *enter(pack, 0.0)), generate=generate,
    )  # fmt: skip


def _holds_keys(tuned: PeftModel) -> bool:
    return tuned.active_peft_config.peft_type == "PREFIX_TUNING"


def _tokens(config: Any) -> int:
    return int(config.num_virtual_tokens)


def _after_vectors(tuned: PeftModel, pack: Pack, noise: float) -> tuple[Pack, Tensor, Cache | None]:
    """The vectors are the first of the tokens that all rows share."""
    bare, virtual = _bare(tuned), tuned.get_prompt(1)
    tokens, rows = virtual.shape[1], packing.embed(bare, pack, noise)
    lengths = (tokens + pack.shared, *pack.lengths[1:]) if pack.shared else (tokens, *pack.lengths)
    longer = replace(
        pack, positions=torch.cat([torch.arange(tokens)[None], pack.positions + tokens], 1), lengths=lengths,
        predictors=pack.predictors + tokens, shared=tokens + pack.shared,
    )  # fmt: skip
    _check_positions(bare, longer)
    return longer, torch.cat([virtual.to(rows.dtype), rows], 1), None


def _after_keys(tuned: PeftModel, pack: Pack, noise: float) -> tuple[Pack, Tensor, Cache | None]:
    """PEFT's cache holds the keys as they are after the rotation: the rows' positions begin behind them."""
    bare = _bare(tuned)
    moved = replace(pack, positions=pack.positions + _tokens(tuned.active_peft_config))
    _check_positions(bare, moved)
    before: Any = tuned.get_prompt(1)
    return moved, packing.embed(bare, pack, noise), before


def _bare(tuned: PeftModel) -> Any:
    return tuned.get_base_model()


def _generate(tuned: PeftModel, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
    """As PeftModel.generate for one prompt. For several, padded on the left, PEFT puts the vectors before the padding,
    so that an answer would depend on what it is generated with; here they are next to the prompt.

    Shapes: input_ids and attention_mask (rows, width); the result is (rows, width + new tokens).
    """
    bare, virtual = _bare(tuned), tuned.get_prompt(1)[0]
    embedded: Tensor = bare.get_input_embeddings()(input_ids)
    tokens, width = len(virtual), input_ids.shape[1]
    padding = (width - attention_mask.sum(1)).tolist()
    states = torch.stack([
        torch.cat([row[:pad], virtual.to(row.dtype), row[pad:]]) for row, pad in zip(embedded, padding, strict=True)
    ])  # fmt: skip
    mask = torch.cat([attention_mask, attention_mask.new_ones(len(input_ids), tokens)], 1)
    new: Tensor = bare.generate(inputs_embeds=states, attention_mask=mask, **options)
    return torch.cat([input_ids, new], 1)


def _positions(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().max_position_embeddings)


def _check_room(model: PreTrainedModel, tokens: int, train: Reading) -> int:
    """Tokens that a row may have."""
    budget = _positions(model) - tokens
    longest = max((len(row.ids) for place in range(len(train)) for row in train[place]), default=0)
    if longest > budget:
        raise ParamsError(
            f"train.options.tokens={tokens}: before the longest training row, {longest} tokens, there is no room for them "
            f"in the base's {_positions(model)} positions: lower it, or prepare.max_length to {max(budget, 1)}"
        )
    return budget


def _check_positions(model: PreTrainedModel, pack: Pack) -> None:
    if (needed := int(pack.positions.max()) + 1) > _positions(model):
        raise ModelError(
            f"a row and the virtual tokens before it take {needed} positions, the base has {_positions(model)}: "
            "lower prepare.max_length"
        )
