"""The knobs of the line: `params.yaml` as frozen, closed values. One section a step.

Secrets, buckets and endpoints are no params: they come from the environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from tasks.core.errors import ParamsError
from tasks.core.rules import LimitsParams, PromoteParams, TriggerParams
from tasks.core.sections import (
    DataParams,
    EvaluateParams,
    FetchParams,
    MergeParams,
    PrepareParams,
    PublishParams,
    QuantizeParams,
    ReportParams,
    Section,
    TrainParams,
)

FILE = Path("params.yaml")


class Params(Section):
    """params.yaml: every section is there, so that DVC, too, finds it. Law: `Params(**p.model_dump()) == p`."""

    data: DataParams
    fetch: FetchParams
    prepare: PrepareParams
    train: TrainParams
    merge: MergeParams
    quantize: QuantizeParams
    evaluate: EvaluateParams
    report: ReportParams
    publish: PublishParams
    promote: PromoteParams
    trigger: TriggerParams
    limits: LimitsParams


def load(path: Path = FILE) -> Params:
    """Read and check the file; every error at once, each with its dotted path."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: run the command in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return parse(value, str(path))


def parse(value: object, where: str) -> Params:
    try:
        return Params.model_validate(value)
    except ValidationError as error:
        raise ParamsError(f"{where}: " + "; ".join(complaints(error, Params))) from None


def complaints(error: ValidationError, section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every error of a section at once, each with its dotted path; an unknown key names the known ones."""
    for item in error.errors():
        path = ".".join(str(part) for part in (prefix, *item["loc"]) if part != "")
        if item["type"] == "extra_forbidden":
            known = sorted(_inner(section, item["loc"][:-1]).model_fields)
            yield f"{path}: unknown key;{nearest(str(item['loc'][-1]), known)} known here: {', '.join(known) or 'none'}"
        else:
            yield f"{path}: {item['msg'].removeprefix('Value error, ')} (found {item['input']!r})"


def nearest(name: str, known: Iterable[str]) -> str:
    """` did you mean 'x' or 'y'?` where some of the known are like the name, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=2)
    return f" did you mean {' or '.join(map(repr, near))}?" if near else ""


def _inner(section: type[BaseModel], loc: Iterable[int | str]) -> type[BaseModel]:
    for part in loc:
        section = cast("type[BaseModel]", section.model_fields[str(part)].annotation)
    return section


def override(params: Params, settings: Iterable[str]) -> Params:
    """Apply `train.rank=8`-like settings; the value is read as YAML.

    Law: overriding a path with the value it has changes nothing.
    """
    value = params.model_dump(mode="json")
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise ParamsError(f"--set {setting}: expected PATH=VALUE, for instance train.rank=8")
        *parents, last = path.split(".")
        node: object = value
        for parent in parents:
            node = cast("dict[str, object]", node).get(parent) if isinstance(node, Mapping) else None
        if not isinstance(node, dict):
            raise ParamsError(f"--set {setting}: there is no section {'.'.join(parents)!r} in params.yaml")
        try:
            cast("dict[str, Any]", node)[last] = _number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise ParamsError(f"--set {setting}: the value {text!r} is not YAML") from None
    return parse(value, "--set")


def _number(value: Any) -> Any:
    """PyYAML reads `2e-4` as a string where YAML 1.2 has a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def difference(old: Params, new: Params) -> dict[str, Any]:
    """Dotted paths whose values differ, with the new value.

    Law: what these paths of `old` are set to makes `new`. A section whose keys are the user's own (options of a method,
    names of sources, patterns) is given as a whole where its keys differ or hold a dot.
    """
    return dict(_changes(old.model_dump(mode="json"), new.model_dump(mode="json"), ""))


def _changes(left: Mapping[str, Any], right: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, new in right.items():
        old, path = left[key], f"{prefix}{key}"
        if isinstance(old, dict) and isinstance(new, dict) and _are_paths(old.keys(), new.keys()):
            yield from _changes(cast("dict[str, Any]", old), cast("dict[str, Any]", new), f"{path}.")
        elif old != new:
            yield path, new


def _are_paths(left: Set[str], right: Set[str]) -> bool:
    return left == right and not any("." in key for key in left)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of nested sections."""
    paths: dict[str, Any] = {}
    for key, item in value.items():
        paths |= (
            flat(cast("Mapping[str, Any]", item), f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
        )
    return paths
