"""Adapters in tuneline's own format, for methods that PEFT does not have. A folder of two files.

`tuneline_adapter.json`, closed (an unknown key is an error):

    format   1
    kind     "weights": the tensors stand in place of the base's own, whole
             "modules": the tensors belong to modules that the method's `reload` puts into the base
             "parts": no tensors here, but two adapters of PEFT's in folders of their own (tasks/ml/hybrid.py)
    method   a file under tasks/ml/methods/
    options  that method's `train.options`, complete and resolved: with the base, all that rebuilding takes; a path
             is of a folder inside the adapter's own (validated with that as the context)
    base     architecture, layers, hidden, vocabulary, and `shapes`: a digest of its tensors' names and shapes

`adapter_model.safetensors`, finite, in the dtype that was trained in:

    kind "weights": a tensor that training changed, under its name in the base's own state dict and of its shape;
                    what did not change is left out; tied embeddings stand once, as the input embeddings.
                    Merging is replacing.
    kind "modules": all of the method's tensors, and no others, named as in the model that `reload` makes.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.core import digest, weights
from tasks.core.errors import ModelError, ParamsError
from tasks.core.params import complaints
from tasks.core.sections import Section
from tasks.ml import loading, methods
from tasks.ml.lora import stored
from tasks.ml.tuned import Runner

FORMAT = 1
CONFIG, TENSORS = "tuneline_adapter.json", "adapter_model.safetensors"
LARGEST_CONFIG = 1 << 20
Kind = Literal["weights", "modules", "parts"]


class Base(Section):
    """What a base must be like to take the adapter."""

    architecture: str
    layers: int
    hidden: int
    vocabulary: int
    shapes: str


class Described(Section):
    format: Literal[1] = FORMAT
    kind: Kind
    method: str
    options: dict[str, Any]
    base: Base


class Rebuilt(Protocol):
    """What the file of a method of kind "modules" defines beside `attach`."""

    Options: type[Section]

    def reload(self, model: PreTrainedModel, options: Any) -> tuple[Runner, frozenset[str]]:
        """Put the method's modules into the model; the names of the tensors that belong to them. ParamsError: no room."""
        ...


def base(model: PreTrainedModel) -> Base:
    """Of a model as it was loaded, before anything is put into it."""
    shapes = sorted([name, list(value.shape)] for name, value in model.named_parameters())
    config: Any = model.config.get_text_config()
    return Base(
        architecture=type(model).__name__, layers=config.num_hidden_layers, hidden=config.hidden_size,
        vocabulary=config.vocab_size, shapes=digest.of_value(shapes),
    )  # fmt: skip


def describer(model: PreTrainedModel, kind: Kind, method: str, options: Section) -> Callable[[Path], None]:
    """What writes the adapter's description later; the base is described now, while it is untouched."""
    described = Described(kind=kind, method=method, options=options.model_dump(mode="json"), base=base(model))

    def describe(folder: Path) -> None:
        text = json.dumps(described.model_dump(mode="json"), indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    return describe


def saver(
    model: PreTrainedModel, kind: Kind, method: str, options: Section
) -> Callable[[Path, Mapping[str, Tensor]], None]:
    """What writes the adapter's folder later."""
    describe = describer(model, kind, method, options)

    def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """ModelError: something is not finite."""
        _check_finite(tensors, folder)
        with loading.writing(folder):
            plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
            save_file(plain, folder / TENSORS, metadata={"format": "pt"})
        describe(folder)

    return save


def load(model: PreTrainedModel, folder: Path) -> Runner:
    """The model with the adapter on it, in evaluation mode. ModelError: damaged, foreign, or made for another base."""
    described = read(folder)
    _check_base(described.base, base(model), folder, packed=stored.method(model) is not None)
    if described.kind == "parts":
        from tasks.ml import hybrid

        return hybrid.load(model, folder)
    found = tensors(folder)
    if described.kind == "weights":
        _fill({name: value for name, value in model.named_parameters() if name in found}, found, folder)
        return Runner.of(model.eval())
    method, options = _method(described, folder)
    try:
        runner, names = method.reload(model, options)
    except ParamsError as error:
        raise ModelError(f"{folder / CONFIG} does not fit the base: {error}") from None
    _fill({name: value for name, value in model.named_parameters() if name in names}, found, folder)
    model.eval()
    return runner


def read(folder: Path) -> Described:
    """The description alone, checked. ModelError: it is none, or of a format that this version does not know."""
    file = folder / CONFIG
    with file.open("rb") as stream:
        text = stream.read(LARGEST_CONFIG + 1)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"{file} is not JSON: restore the adapter, or train it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds no JSON object: restore the adapter, or train it again")
    written = cast("dict[str, Any]", value).get("format")
    if written != FORMAT:
        raise ModelError(f"{file} has format {written!r:.40}, this version reads format {FORMAT}: update tuneline")
    try:
        return Described.model_validate(value)
    except ValidationError as error:
        raise ModelError(f"{file}: {'; '.join(complaints(error, Described, 'adapter')):.400}") from None


def _method(described: Described, folder: Path) -> tuple[Rebuilt, Any]:
    method = described.method
    found: Any = importlib.import_module(f"tasks.ml.methods.{method}") if method in methods.files() else None
    if not hasattr(found, "reload"):  # the door: a name from a file
        raise ModelError(f"{folder / CONFIG}: no method {method!r:.80} puts modules into a model: update tuneline")
    try:
        return found, found.Options.model_validate(described.options, context=folder)
    except ValidationError as error:
        raise ModelError(f"{folder / CONFIG}: {'; '.join(complaints(error, found.Options, 'options')):.400}") from None


def _check_base(wanted: Base, found: Base, folder: Path, *, packed: bool) -> None:
    """`packed`: the base holds its weights in fewer bits than it was trained with, so that their shapes say nothing."""
    for field in Base.model_fields:
        if field == "shapes" and packed:
            continue
        made_for, has = getattr(wanted, field), getattr(found, field)
        if made_for != has:
            raise ModelError(
                f"the adapter {folder} was made for another base: its {field} is {made_for!r:.70}, here {has!r:.70}"
            )


def tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors by name, finite. ModelError: there are none, or they are damaged."""
    file = folder / TENSORS
    if not file.is_file():
        raise ModelError(f"{folder} has no {TENSORS}: restore the adapter, or train it again")
    if not weights.header(file):
        raise ModelError(f"{file} holds no tensors: restore the adapter, or train it again")
    found = load_file(file)
    _check_finite(found, folder)
    return found


def _check_finite(tensors: Mapping[str, Tensor], folder: Path) -> None:
    for name, value in tensors.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise ModelError(f"{folder}: {name} of the adapter is not finite: train again with a lower learning rate")


def _fill(places: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Law: after a refusal the model is as it was."""
    if missing := sorted(places.keys() - tensors.keys()):
        raise ModelError(f"{folder / TENSORS} lacks {missing[0]} ({len(missing)} in all): restore the adapter")
    if extra := sorted(tensors.keys() - places.keys()):
        raise ModelError(f"{folder / TENSORS} has {extra[0]!r:.120}, which has no place in the model: wrong base?")
    for name, place in places.items():
        if place.shape != tensors[name].shape:
            raise ModelError(
                f"{folder / TENSORS}: {name} is {tuple(tensors[name].shape)}, the model has {tuple(place.shape)}"
            )
    for name, place in places.items():
        place.data.copy_(tensors[name])
