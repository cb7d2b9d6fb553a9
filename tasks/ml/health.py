"""The health of what trains, looked at whenever the validation rows are: gradients by kind, adapters that are dead or
explode, and the effective rank of B A. A step in between costs nothing more."""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tasks.core import events
from tasks.ml import spectrum
from tasks.ml.history import Health

KINDS = {"A": "a", "B": "b", "magnitude_vector": "magnitude"}
PART = re.compile(r"^(?P<layer>.+)\.lora_(?:embedding_)?(?P<part>A|B|E|magnitude_vector)(?=\.|$)")
"""A parameter of LoRA and its kin: `LAYER.lora_A.default.weight`, `LAYER.lora_embedding_B.default`, `LAYER.lora_A`."""
NUMBER = re.compile(r"\.\d+\.")
EXPLODES = 100.0
"""Times the median gradient norm of its peers. On SmolLM2-135M the largest of LoRA's lies at 15 times."""
FEWEST = 4
"""Peers that make a median."""
QUIET = 2
"""Measurements in a row without any gradient: one alone may be a batch that did not reach an expert."""
NAMED = 8
"""Layers that one warning names."""


@dataclass
class Watch:
    """What was seen so far, and what was told: each layer is told of once."""

    records: list[Health] = field(default_factory=list[Health])
    quiet: dict[str, int] = field(default_factory=dict[str, int])
    told: set[str] = field(default_factory=set[str])

    def look(
        self, step: int, gradients: Mapping[str, Tensor], scale: float, values: Mapping[str, Tensor], trains: Collection[str],
        *, warm: bool,
    ) -> None:  # fmt: skip
        """After `step`. `gradients` times `scale` are those before clipping, `values` all that trained so far, `trains`
        the names of what this step trained; `warm`: the rate is past its warm-up, so that all of it should move.
        """
        norms = {name: norm * scale for name, norm in _norms(gradients).items()}
        ranks = list(_effective_ranks(values))
        by_kind = {f"grad_{kind}": _total(norms, kind) for kind in ("a", "b", "magnitude", "other")}
        mean, lowest = (statistics.fmean(ranks), min(ranks)) if ranks else (None, None)
        self.records.append(Health(step, **by_kind, effective_rank=mean, effective_rank_min=lowest))
        self._count_quiet(norms, trains)
        if warm:
            still = {name for name in trains if is_part(name, "B") and not values[name].any()}
            self._tell({_layer(name) for name in still}, f"B is still zero after step {step}: dead, nothing reaches it")
            silent = {layer for layer, times in self.quiet.items() if times >= QUIET}
            self._tell(silent, f"no gradient at the last {QUIET} measurements, up to step {step}: dead")
        self._tell(
            {_layer(name) for name in exploding(norms)},
            f"the gradient of step {step} is more than {EXPLODES:.0f} times the median of its peers: it explodes",
        )

    def _count_quiet(self, norms: Mapping[str, float], trains: Collection[str]) -> None:
        layers = {_layer(name) for name in trains}
        moving = {_layer(name) for name in trains if norms.get(name, 0.0) > 0}
        self.quiet = {layer: self.quiet.get(layer, 0) + 1 for layer in sorted(layers - moving)}

    def _tell(self, layers: set[str], what: str) -> None:
        new = sorted(layers - self.told)
        self.told |= layers
        if new:
            more = f" and {len(new) - NAMED} more" if len(new) > NAMED else ""
            events.warning(f"{', '.join(new[:NAMED])}{more}: {what}; look at train.targets and at the rate")

    def state(self) -> dict[str, Any]:
        """Plain JSON values, for the checkpoint."""
        return {"records": [each.values() for each in self.records], "quiet": self.quiet, "told": sorted(self.told)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Watch:
        return cls([Health(*values) for values in state["records"]], dict(state["quiet"]), set(state["told"]))


def kind(name: str) -> str:
    """A parameter's kind by its name: `a`, `b`, `magnitude` or `other`."""
    found = PART.match(name)
    return KINDS.get(found["part"], "other") if found else "other"


def is_part(name: str, part: str) -> bool:
    found = PART.match(name)
    return found is not None and found["part"] == part


def _layer(name: str) -> str:
    """The layer that a parameter belongs to."""
    found = PART.match(name)
    return found["layer"] if found else name.rpartition(".")[0] or name


def _norms(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    """One transfer for all of them."""
    if not gradients:
        return {}
    norms = torch.stack([torch.linalg.vector_norm(value).float() for value in gradients.values()]).tolist()
    return dict(zip(gradients, norms, strict=True))


def _total(norms: Mapping[str, float], wanted: str) -> float | None:
    found = [norm for name, norm in norms.items() if kind(name) == wanted]
    return sum(norm**2 for norm in found) ** 0.5 if found else None


def exploding(norms: Mapping[str, float]) -> list[str]:
    """Names of the parameters whose gradient is far beyond the median of their peers."""
    groups: dict[str, dict[str, float]] = {}
    for name, norm in norms.items():
        groups.setdefault(_peers(name), {})[name] = norm
    many = [found for found in groups.values() if len(found) >= FEWEST]
    return [
        name
        for found in many
        for name, norm in found.items()
        if norm > EXPLODES * statistics.median(found.values()) > 0
    ]


def _peers(name: str) -> str:
    """What a parameter's gradient is comparable with: those of its kind, or of the same name in the other layers. The
    parts of other methods differ by orders of magnitude within one layer, where one of them starts at zero for instance.
    """
    found = kind(name)
    return NUMBER.sub(".*.", name) if found == "other" else found


def _effective_ranks(values: Mapping[str, Tensor]) -> Iterator[float]:
    """Of B A, or AdaLoRA's B (E A), wherever it is not zero; in float32 on the processor, for the matrices are small."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in values.items():
        if found := PART.match(name):
            parts.setdefault(found["layer"], {})[found["part"]] = value
    for layer in parts.values():
        if layer.keys() >= {"A", "B"} and layer["A"].numel():
            a, b = (layer[part].detach().float().cpu().flatten(1) for part in ("A", "B"))
            scaled = a * layer["E"].detach().float().cpu().reshape(-1, 1) if "E" in layer else a
            rank = spectrum.effective_rank(spectrum.of_product(b, scaled))
            if rank is not None:
                yield rank
