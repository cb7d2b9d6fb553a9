"""X-LoRA: a small trained network mixes several finished, frozen LoRAs anew for every token (Buehler and Buehler 2024,
arXiv 2402.07148). Not mergeable: served beside the base, with the LoRAs inside."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from tasks.core import events
from tasks.core.sections import Count, Name, Section, Share, TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.experts import Expert
    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Runner, Tuned

EXPERTS = PurePosixPath("experts")
"""The folder in a saved adapter that holds the LoRAs."""


def _place(folder: str, info: ValidationInfo) -> str:
    """In a saved adapter, whose folder is the context, the LoRAs lie inside; else anywhere on this machine."""
    if info.context is not None:
        if PurePosixPath(folder).parent != EXPERTS or folder.endswith(".."):
            raise ValueError(f"{folder!r:.80} is no folder in {EXPERTS}/")
        return str(info.context / folder)
    if not Path(folder).is_absolute():
        raise ValueError(f"{folder!r:.80} is no absolute path")
    return folder


Folder = Annotated[str, AfterValidator(_place)]


class Options(Section):
    adapters: Annotated[dict[Name, Folder], Field(min_length=2, description="plain LoRAs of this base, by name")]
    layerwise: Annotated[bool, Field(description="a mixture of its own for every layer that has LoRAs")] = False
    top_k: Annotated[Count | None, Field(description="only the heaviest so many of a token's LoRAs; null: all")] = None
    temperature: Annotated[float, Field(gt=0, description="of the softmax that weighs them")] = 1.0
    weight: Annotated[float, Field(gt=0, description="times the mixture")] = 1.0
    depth: Annotated[Count, Field(description="linear layers of the network")] = 1
    size: Annotated[Count, Field(description="between them")] = 2048
    dropout: Annotated[Share, Field(description="between them")] = 0.0

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if self.top_k is not None and self.top_k > len(self.adapters):
            raise ValueError(f"top_k={self.top_k} of {len(self.adapters)} adapters: choose fewer")
        return self


def base(_options: Options) -> Base:
    return "plain"


def attach(model: PreTrainedModel, _params: TrainParams, options: Options, _ahead: Ahead) -> Tuned:
    """ParamsError: one of the adapters is no plain LoRA of this base."""
    from tasks.ml import experts, loading, own_adapter
    from tasks.ml.tuned import Tuned

    events.note("xlora has no use for train.rank, train.alpha and train.targets: the adapters bring them")
    given = experts.read_all(model, options.adapters)
    inside = options.model_copy(update={"adapters": {name: str(EXPERTS / name) for name in options.adapters}})
    write = own_adapter.saver(model, "modules", "xlora", inside)
    runner, names = _put(model, options, given)
    trained = {name: value for name, value in model.named_parameters() if name in names}
    loading.forget_path(model)

    def save(folder: Path) -> None:
        write(folder, trained)
        for expert in given:
            experts.write(model, expert, folder / EXPERTS / expert.name)

    mark = experts.mark(given)
    return Tuned(
        runner, save, state=lambda: {"experts": mark}, restore=lambda saved: experts.check_same(mark, saved["experts"]),
        facts={"experts": {expert.name: expert.digest for expert in given}},
    )  # fmt: skip


def reload(model: PreTrainedModel, options: Options) -> tuple[Runner, frozenset[str]]:
    """The adapters that lie inside the saved one, and a fresh network. ParamsError: they don't fit the base."""
    from tasks.ml import experts

    return _put(model, options, experts.read_all(model, options.adapters))


def _put(model: PreTrainedModel, options: Options, given: list[Expert]) -> tuple[Runner, frozenset[str]]:
    """Nothing trains but the router, whose tensors' names these are."""
    from tasks.ml import experts
    from tasks.ml.layers import routed
    from tasks.ml.tuned import Runner

    layers = experts.by_layer(model, given)
    router = routed.Router(
        model.config.get_text_config().hidden_size, len(given), len(layers) if options.layerwise else 1,
        routed.Gating(options.temperature, options.top_k, options.weight),
        depth=options.depth, size=options.size, dropout=options.dropout, device=model.device,
    )  # fmt: skip
    routed.route(model, router, layers, layerwise=options.layerwise)
    return Runner.of(model), frozenset(f"router.{name}" for name, _ in router.named_parameters())
