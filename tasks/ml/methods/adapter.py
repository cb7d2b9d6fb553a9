"""Bottleneck adapters within the layers: after attention and feed-forward (Houlsby et al. 2019, arXiv 1902.00751), or
after the feed-forward alone (Pfeiffer et al. 2020, arXiv 2005.00052). Not mergeable: served beside the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tasks.core.errors import ParamsError
from tasks.core.sections import Section, TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Runner, Tuned

Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class Options(Section):
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    size: Annotated[Size, Field(description="of the bottleneck: a number, or a share of hidden, 1/64 to 1/16")] = 1 / 16
    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    norms: Annotated[
        bool | None, Field(description="the base's norms train too; null: as in the paper, with houlsby only")
    ] = None


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, _params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """ParamsError: the bottleneck is wider than the hidden states, or the layers are made otherwise than known."""
    from tasks.ml import own_modules

    return own_modules.tune(model, "adapter", _resolved(options, model.config.get_text_config().hidden_size), reload)


def reload(model: PreTrainedModel, options: Options) -> tuple[Runner, frozenset[str]]:
    """Every layer's halves get their adapters, as at the start of training."""
    from tasks.ml import blocks
    from tasks.ml.layers import bottleneck
    from tasks.ml.tuned import Runner

    hidden: int = model.config.get_text_config().hidden_size
    like, size = next(model.parameters()), _size(options, hidden)
    names = set(blocks.norms(model)) if options.norms else set[str]()
    for block in blocks.blocks(model):
        halves = [block.attention, block.feed_forward] if options.placement == "houlsby" else [block.feed_forward]
        for half in halves:
            made = bottleneck.Bottleneck(hidden, size, options.activation, like)
            bottleneck.follow(block.module.get_submodule(half), made)
            names |= {f"{block.name}.{half}.adapter.{inner}" for inner, _ in made.named_parameters()}
    return Runner.of(model), frozenset(names)


def _resolved(options: Options, hidden: int) -> Options:
    norms = options.placement == "houlsby" if options.norms is None else options.norms
    return options.model_copy(update={"size": _size(options, hidden), "norms": norms})


def _size(options: Options, hidden: int) -> int:
    size = options.size if isinstance(options.size, int) else max(1, round(options.size * hidden))
    if size > hidden:
        raise ParamsError(
            f"train.options.size={size} is wider than the hidden states ({hidden}): choose 1/64 to 1/16 of them"
        )
    return size
