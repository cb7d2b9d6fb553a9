"""Where the result comes from: what the manifests of data, base, adapter and merged model say, as typed values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import Field, ValidationError

from tasks.core import manifest
from tasks.core.continued import Continued
from tasks.core.errors import DataError
from tasks.core.manifest import Manifest
from tasks.core.standing import Standing
from tasks.data.report.evaluations import Evaluation
from tasks.data.report.units import Number
from tasks.data.report.values import Value, complaint

V = TypeVar("V", bound=Value)


class ChatFacts(Value):
    """Rows and tokens by split; dropped rows by reason."""

    rows: dict[str, int]
    dropped: dict[str, int] = Field(default_factory=dict[str, int])
    tokens: dict[str, int] = Field(default_factory=dict[str, int])


class BaseFacts(Value):
    ref: str
    revision: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    continues: Continued | None = None

    @property
    def name(self) -> str:
        """As a reader knows it: ORG/NAME of a hub, else the package, or the last part of a path."""
        kind, separator, rest = self.ref.partition(":")
        if separator and kind == "hub":
            return rest
        return Path(rest if separator and kind == "gguf" else self.ref).name

    @property
    def hub_id(self) -> str | None:
        return self.ref.removeprefix("hub:") if self.ref.startswith("hub:") else None


class AdapterFacts(Value):
    method: str
    steps: int
    trainable_parameters: int | None = None
    total_parameters: int | None = None

    @property
    def trainable_share(self) -> float | None:
        return (
            self.trainable_parameters / self.total_parameters
            if self.trainable_parameters and self.total_parameters
            else None
        )


class TrainFacts(Value):
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Stage:
    """One thing that the result was made from, with its manifest's digest."""

    name: str
    what: str
    digest: str


@dataclass(frozen=True)
class Lineage:
    chat: ChatFacts
    base: BaseFacts
    adapter: AdapterFacts
    train: TrainFacts
    stages: tuple[Stage, ...]
    params: tuple[tuple[str, str], ...]
    """Dotted path and value of every knob that shaped the result."""

    @property
    def trained(self) -> dict[str, Number | None]:
        """What the training took, by the keys of the columns TRAINED."""
        return {
            "trainable_parameters": self.adapter.trainable_parameters,
            "trainable_share": self.adapter.trainable_share,
            "train_seconds": self.train.seconds,
            "train_tokens_per_second": self.train.tokens_per_second,
            "train_peak_memory_bytes": self.train.peak_memory_bytes,
        }


def read(
    *, chat: Path, base: Path, adapter: Path, merged: Path, train: Path, evaluations: Sequence[Evaluation]
) -> Lineage:
    sealed = {folder: manifest.read(folder) for folder in (chat, base, adapter, merged)}
    sealed[train] = manifest.verify(train)
    sections = {"fetch": sealed[base], "prepare": sealed[chat], "train": sealed[adapter], "merge": sealed[merged]}
    sections["evaluate"] = evaluations[0].manifest
    return Lineage(
        chat=_facts(ChatFacts, sealed[chat], chat),
        base=_facts(BaseFacts, sealed[base], base),
        adapter=_facts(AdapterFacts, sealed[adapter], adapter),
        train=_facts(TrainFacts, sealed[train], train),
        stages=(
            *_stages(
                {"chat": sealed[chat], "base": sealed[base], "adapter": sealed[adapter], "merged": sealed[merged]}
            ),
            *(
                Stage(
                    f"evaluate {each.target}",
                    "answers and measurements" if each.measured.made else "that it was not made",
                    each.manifest.digest,
                )
                for each in evaluations
            ),
        ),
        params=tuple((path, value) for name, each in sections.items() for path, value in _flat(name, each.params)),
    )


def _facts(kind: type[V], sealed: Manifest, folder: Path) -> V:
    try:
        return kind.model_validate(sealed.facts)
    except ValidationError as error:
        raise DataError(
            f"{folder / manifest.NAME}: facts.{complaint(error)}. "
            f"Run the stage that made it again: dvc repro --force {sealed.step}"
        ) from None


def _stages(sealed: Mapping[str, Manifest]) -> Iterator[Stage]:
    if raw := sealed["chat"].inputs.get("raw"):
        yield Stage("raw", "the corpus", raw)
    for name, what in (
        ("chat", "rows, split and tokenised"),
        ("base", "base model"),
        ("adapter", "what was trained"),
        (
            "merged",
            "base and adapter in one" if Standing.of(sealed["merged"]).merged else "the base, the adapter beside it",
        ),
    ):
        yield Stage(name, what, sealed[name].digest)


def _flat(path: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        return [pair for key in sorted(items) for pair in _flat(f"{path}.{key}", items[key])]
    return [(path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
