"""What LoRA will do to a model, decided and checked before it is touched."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from tasks.core import events
from tasks.core.sections import TrainParams
from tasks.ml import targets
from tasks.ml.lora import importance, patterns, ranks, sample, stored
from tasks.ml.lora.sections import Allocate, LoraOptions
from tasks.ml.packing import Pack
from tasks.ml.tuned import Ahead


@dataclass(frozen=True)
class Plan:
    """Ranks and alphas by the layers' full names. `width` is 2 where pairs count from where they start (offset.py)."""

    ranks: dict[str, int]
    alphas: dict[str, float]
    width: int
    dora: bool


def make(model: PreTrainedModel, params: TrainParams, options: LoraOptions, ahead: Ahead, *, dora: bool) -> Plan:
    """ParamsError: a target or a pattern fits no layer, a rank is too high, or the base can't take it."""
    stored.refuse(model, options.init, dora=dora)
    names = targets.named(model, params)
    if options.allocate.by == "none":
        given = patterns.resolve(names, options.rank_pattern, params.rank, "train.options.rank_pattern")
        targets.check_ranks(model, given, "train.options.rank_pattern" if options.rank_pattern else "train.rank")
    else:
        targets.check_ranks(model, dict.fromkeys(names, params.rank), "train.rank")
        given = allocate(model, names, params.rank, options.allocate, sample.take(ahead.train, options.sample))
    alphas = patterns.resolve(names, options.alpha_pattern, params.alpha, "train.options.alpha_pattern")
    return Plan(given, alphas, 2 if options.init.startswith(("pissa", "olora", "corda")) else 1, dora)


def allocate(
    model: PreTrainedModel, names: list[str], rank: int, options: Allocate, packs: list[Pack]
) -> dict[str, int]:
    """Ranks by importance on the sample, and a line in the log that says what came of it."""
    wanted = set(names)
    layers = {name: layer for name, layer in targets.linear(model).items() if name in wanted}
    costs = {name: sum(targets.sides(layer)) for name, layer in layers.items()}
    top = options.max_rank or 2 * rank
    measured = importance.measure(model, layers, packs, options.by, top)
    caps = {name: min(top, *targets.sides(layer)) for name, layer in layers.items()}
    given = ranks.share_out(measured, costs, caps, rank, options.budget * rank * sum(costs.values()))
    low, high = min(given, key=lambda name: given[name]), max(given, key=lambda name: given[name])
    events.note(f"ranks by {options.by}: from {given[low]} ({low}) to {given[high]} ({high})")
    return given
