"""Safetensors files seen as bytes: where each tensor lies. No torch.

Format: 8 bytes little-endian header length, the header as JSON, then the data
(https://github.com/huggingface/safetensors, section Format).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import ModelError

MAX_HEADER = 100 << 20


@dataclass(frozen=True)
class Tensor:
    """One tensor's place: `start` and `end` are byte offsets in the file; `dtype` as the format spells it (`BF16`)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header(file: Path) -> Mapping[str, Tensor]:
    """Every tensor of the file, in the order of the header. ModelError: truncated, not safetensors, a name twice."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ModelError(f"{file} is not a whole safetensors file ({size} bytes)")
        raw = stream.read(length)
    try:
        entries: dict[str, Any] = json.loads(raw, object_pairs_hook=_distinct)
        start = 8 + length
        tensors = {
            name: Tensor(entry["dtype"], tuple(entry["shape"]), *(start + offset for offset in entry["data_offsets"]))
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} has a damaged header: {error}") from None
    if max((tensor.end for tensor in tensors.values()), default=start) != size:
        raise ModelError(f"{file} is truncated or has foreign bytes at its end: fetch or make it again")
    return tensors


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers keep the last of two equal keys; a file with two tensors of one name is refused instead."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the name {key!r} stands twice")
        value[key] = item
    return value


def shards(folder: Path) -> list[Path]:
    """The weight files of a model folder, in name order."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(f"{folder} has no *.safetensors weights")
    return found
