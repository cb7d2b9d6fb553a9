"""LoReFT: the hidden states of a prompt's first and last tokens are edited in a learned subspace of few dimensions
(Wu et al. 2024, arXiv 2404.03592). Not mergeable: served beside the base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tasks.core.errors import ParamsError
from tasks.core.sections import Count, Section, TrainParams

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from tasks.ml.layers.places import Guide
    from tasks.ml.methods import Base
    from tasks.ml.packing import Pack
    from tasks.ml.tuned import Ahead, Runner, Tuned

Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Positions = Annotated[str, Field(pattern=r"^(all|prompt|f[1-9]\d{0,3}|l[1-9]\d{0,3}|f[1-9]\d{0,3}\+l[1-9]\d{0,3})$")]


class Options(Section):
    layers: Annotated[Layers | Literal["all"], Field(description="numbers from 0, whose output is edited")] = "all"
    positions: Annotated[
        Positions, Field(description="f7+l7: the prompt's first and last 7 tokens; f7; l7; prompt; all, answers too")
    ] = "f7+l7"
    tied: Annotated[bool, Field(description="one intervention for first and last tokens, half the parameters")] = False
    rank: Annotated[Count | None, Field(description="dimensions of the subspace; null: train.rank")] = None


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """ParamsError: the base has no such layer, or fewer hidden dimensions than the rank."""
    from tasks.ml import own_modules

    rank = params.rank if options.rank is None else options.rank
    return own_modules.tune(model, "reft", options.model_copy(update={"rank": rank}), reload)


def reload(model: PreTrainedModel, options: Options) -> tuple[Runner, frozenset[str]]:
    """Interventions at the chosen layers' outputs, as at the start of training. A row with several answers counts as
    prompt what stands before the first; what is generated is edited with `all` only."""
    from tasks.ml import blocks
    from tasks.ml.layers import loreft, places
    from tasks.ml.tuned import Runner

    hidden: int = model.config.get_text_config().hidden_size
    if options.rank is None or options.rank > hidden:
        raise ParamsError(f"train.rank={options.rank} is above the hidden dimensions ({hidden}): choose a lower rank")
    guide, names = places.Guide(places.Positions(options.positions, options.tied)), set[str]()
    any_model: Any = model
    any_model.base_model.register_forward_pre_hook(guide, with_kwargs=True)
    top = list(blocks.stack(model))[-1]
    for name, layer in _chosen(model, options).items():
        # Above the last layer only the token that predicts is read, and it is never among the first ones.
        wanted = [group for group in guide.positions.groups if group != "first" or name != top]
        groups = {group: loreft.Intervention(hidden, options.rank, model.device) for group in wanted}
        loreft.intervene(layer, groups)
        names |= {f"{name}.reft.{g}.{inner}" for g, made in groups.items() for inner, _ in made.named_parameters()}
    plain = Runner.of(model)
    # Where a prompt ends decides what is edited before it: rows that begin alike can't share their beginning.
    shares = plain.shares and options.positions == "all"
    guided = replace(
        plain, loss_sum=partial(_loss_sum, plain, guide), logits=partial(_logits, plain, guide), shares=shares
    )
    return guided, frozenset(names)


def _loss_sum(plain: Runner, guide: Guide, pack: Pack, noise: float) -> Tensor:
    with guide.within(pack):
        return plain.loss_sum(pack, noise)


def _logits(plain: Runner, guide: Guide, pack: Pack) -> Iterator[Tensor]:
    with guide.within(pack):
        yield from plain.logits(pack)


def _chosen(model: PreTrainedModel, options: Options) -> dict[str, Any]:
    from tasks.ml import blocks

    stack = list(blocks.stack(model).items())
    wanted = sorted(set(range(len(stack)) if options.layers == "all" else options.layers))
    if wanted[-1] >= len(stack):
        raise ParamsError(f"train.options.layers: there is no layer {wanted[-1]}; this base has 0 to {len(stack) - 1}")
    return dict(stack[place] for place in wanted)
