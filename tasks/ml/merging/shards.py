"""The files of the merged model before they are written: the base's own layout, with every tensor's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.core import weights
from tasks.ml import tensors
from tasks.ml.merging import change, ranges
from tasks.ml.tensors import Stored
from tasks.ml.updates.ties import Place

COPIES = 5
"""Of a tensor in float32, which are held at once while an update is made of it as a whole."""


@dataclass(frozen=True)
class Part:
    """A tensor of the file to be written: where it goes, from what, and by which update, if any."""

    name: str
    source: Stored
    start: int
    end: int
    dtype: torch.dtype
    place: Place | None

    @property
    def stays(self) -> bool:
        """Whether its bytes are the base's own."""
        return self.place is None and (self.dtype == self.source.dtype)

    @property
    def memory(self) -> int:
        """Bytes that making it takes, beside a few that do not depend on its size."""
        if self.place is None or change.in_blocks(self.place.update):
            return 0
        return COPIES * 4 * max(1, self.end - self.start) // self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """A file to be written. `shared`: the base's own, in which nothing changes."""

    source: Path
    target: Path
    head: bytes
    parts: tuple[Part, ...]
    shared: bool

    @property
    def size(self) -> int:
        return self.parts[-1].end if self.parts else len(self.head)


def plan(
    source: Path, target: Path, found: Mapping[str, Stored], places: Mapping[str, Place],
    read: Callable[[str], Stored], dtype: torch.dtype | None,
) -> Shard:  # fmt: skip
    """`found`: the tensors of `source`; `places`: the updates that belong to it; `read`: any tensor of the base."""
    ordered = sorted(found.values(), key=lambda stored: stored.place.start)
    types = {stored.name: _type(stored.dtype, dtype) for stored in ordered}
    names = [*types, *(name for name in places if name not in types)]
    sources = {name: read(places[name].source) if name in places else found[name] for name in names}
    types = {name: types.get(name) or _type(sources[name].dtype, dtype) for name in names}
    if types == {stored.name: stored.dtype for stored in ordered}:
        head, spans = weights.head(source), {name: found[name].place for name in names}
    else:
        head, spans = _composed(source, sources, types)
    parts = (
        Part(name, sources[name], spans[name].start, spans[name].end, types[name], places.get(name)) for name in names
    )
    made = tuple(sorted(parts, key=lambda part: part.start))
    shared = all(part.stays for part in made) and ranges.can_share(source, target.parent)
    return Shard(source, target, head, made, shared)


def _type(stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    return wanted if wanted is not None and stored.is_floating_point else stored


def _composed(
    source: Path, sources: Mapping[str, Stored], types: Mapping[str, torch.dtype]
) -> tuple[bytes, Mapping[str, weights.Tensor]]:
    """A header for other types or more tensors, and where they lie then."""
    spans: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, stored in sources.items():
        shape = stored.shape
        spans[name] = tensors.NAMES[types[name]], shape, torch.Size(shape).numel() * types[name].itemsize
    head = weights.compose(spans, weights.metadata(source))
    places = dict[str, weights.Tensor]()
    start = len(head)
    for name, (dtype, shape, size) in spans.items():
        places[name] = weights.Tensor(dtype, shape, start, start + size)
        start += size
    return head, places
