"""Any of PEFT's tuners as a method: options are the fields of the installed PEFT's config class, checked by name and type."""

from __future__ import annotations

import dataclasses
import importlib.util
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import create_model, model_validator

from tasks.core import events
from tasks.core.errors import ParamsError
from tasks.core.sections import Section, TrainParams
from tasks.ml.peft_table import ELSEWHERE, TUNERS, Tuner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.ml.methods import Base
    from tasks.ml.tuned import Ahead, Tuned


@dataclass(frozen=True)
class PeftMethod:
    """The method `name` of the table, and the section of its options."""

    name: str
    Options: type[Section]

    def base(self, _options: Any) -> Base:
        return "plain"

    def attach(self, model: PreTrainedModel, params: TrainParams, options: Any, _ahead: Ahead) -> Tuned:
        """PEFT's layers on the chosen ones, in float32, as PEFT trains them: values near 1 don't move in bfloat16."""
        from tasks.ml import peft_places, peft_tuned

        tuner = TUNERS[self.name]
        given: dict[str, Any] = {**tuner.defaults, **options.model_dump(exclude_unset=True)}
        _note_ignored(self.name, tuner)
        settings = given | peft_places.settings(model, params, self.name, given) | _strength(self.name, tuner, params)
        with peft_tuned.refusals():
            tuned = peft_tuned.wrap(model, config_class(self.name)(**settings, task_type="CAUSAL_LM"), float32=True)
        return (
            dataclasses.replace(tuned, runner=dataclasses.replace(tuned.runner, shares=False)) if tuner.draws else tuned
        )


def find(name: str, options: Mapping[str, Any]) -> PeftMethod:
    """PEFT takes 7 s to import, so it is asked for the options there are only if some are given.

    ParamsError: the method needs a package that is not installed.
    """
    tuner = TUNERS[name]
    if tuner.needs and importlib.util.find_spec(tuner.needs[0]) is None:
        raise ParamsError(
            f"train.method={name} needs {tuner.needs[1]}, which is not installed: pip install {tuner.needs[1]}"
        )
    return PeftMethod(name, _section(name, tuner) if options else _none(name, tuner))


def config_class(name: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return next(made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items() if kind.value == name.upper())


def _none(name: str, tuner: Tuner) -> type[Section]:
    """The section of somebody who gives no option: an error only where one is required."""
    required: dict[str, Any] = dict.fromkeys(tuner.required, (Any, ...))
    return create_model(name, __base__=Section, **required)


def _section(name: str, tuner: Tuner) -> type[Section]:
    """The closed section of the config's fields, less those that are set elsewhere."""
    made = config_class(name)
    hints = typing.get_type_hints(made)
    elsewhere = _elsewhere(tuner)
    fields: dict[str, Any] = {
        item.name: (hints[item.name], ... if item.name in tuner.required else None)
        for item in dataclasses.fields(made)
        if item.name not in elsewhere
    }

    def refuse(value: Any) -> Any:
        if said := [f"{option} is no option of {name}: {elsewhere[option]}" for option in value if option in elsewhere]:
            raise ValueError("; ".join(said))
        return value

    refusing: dict[str, Any] = {"refuse": model_validator(mode="before")(refuse)}
    return create_model(name, __base__=Section, __validators__=refusing, **fields)


def _elsewhere(tuner: Tuner) -> dict[str, str]:
    own = {
        option: f"it is {param}"
        for option, param in ((tuner.rank, "train.rank"), (tuner.alpha, "train.alpha"))
        if option
    }
    return {**ELSEWHERE, **tuner.refused, **own}


def _strength(name: str, tuner: Tuner, params: TrainParams) -> dict[str, Any]:
    """train.rank and train.alpha under the config's own names. PEFT's alphas are whole numbers."""
    settings: dict[str, Any] = {}
    if tuner.rank:
        settings[tuner.rank] = params.rank
    if tuner.alpha:
        if not params.alpha.is_integer():
            raise ParamsError(f"train.alpha={params.alpha}: {name} takes a whole number")
        settings[tuner.alpha] = int(params.alpha)
    return settings


def _note_ignored(name: str, tuner: Tuner) -> None:
    ignored = [param for param, own in (("train.rank", tuner.rank), ("train.alpha", tuner.alpha)) if own is None]
    if tuner.places in ("attention", "embedding"):
        ignored.append("train.targets")
    if ignored:
        events.note(f"{name} has no use for {' and '.join(ignored)}")
