"""Safetensors files seen as bytes: where each tensor lies. No torch.

Format: 8 bytes little-endian header length, the header as JSON, then the data
(https://github.com/huggingface/safetensors, section Format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import ModelError

MAX_HEADER = 100 << 20
INDEX = "model.safetensors.index.json"
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F32": 4, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Bytes a value, by dtype."""


@dataclass(frozen=True)
class Tensor:
    """One tensor's place: `start` and `end` are byte offsets in the file; `dtype` as the format spells it (`BF16`)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header(file: Path) -> Mapping[str, Tensor]:
    """Every tensor of the file, in the order of the header. ModelError: truncated, not safetensors, a name twice, a
    tensor whose bytes are not as many as its shape asks for."""
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
    for name, tensor in tensors.items():
        size = SIZES.get(tensor.dtype)  # types of half a byte are not judged
        if tensor.start < start or (size and tensor.end - tensor.start != size * math.prod(tensor.shape)):
            raise ModelError(
                f"{file} has a damaged header: {name} of {tensor.dtype} {tensor.shape} lies in other bytes"
            )
    return tensors


def head(file: Path) -> bytes:
    """Everything before the data, as it stands in the file; `header` has read it without complaint."""
    with file.open("rb") as stream:
        length = stream.read(8)
        return length + stream.read(int.from_bytes(length, "little"))


def metadata(file: Path) -> Mapping[str, str]:
    """What the file says of itself beside its tensors."""
    entries: dict[str, Any] = json.loads(head(file)[8:])
    return entries.get("__metadata__", {})


def compose(tensors: Mapping[str, tuple[str, tuple[int, ...], int]], said: Mapping[str, str]) -> bytes:
    """A file's first bytes, for tensors by name with their dtype, shape and bytes in all, in the order of the data."""
    entries: dict[str, Any] = {"__metadata__": said} if said else {}
    place = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (place, place + size)}
        place += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def sort_metadata(file: Path) -> None:
    """Put a file's own metadata in order, in place: safetensors writes it in another one each time.

    Law: files of equal content are equal bytes afterwards.
    """
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries: dict[str, Any] = json.loads(stream.read(length))
        entries |= {name: dict(sorted(entries[name].items())) for name in entries if name == "__metadata__"}
        ordered = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) > length:
            raise ModelError(f"{file} has a header that can't be put in order ({length} bytes)")
        stream.seek(8)
        stream.write(ordered.ljust(length))


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


def check_index(folder: Path, shards: Mapping[Path, Mapping[str, Tensor]]) -> None:
    """ModelError: the folder's index names a file that is not there, or a tensor that its file does not hold."""
    file = folder / INDEX
    if not file.is_file():
        return
    try:
        named: Mapping[str, str] = json.loads(file.read_bytes())["weight_map"]
        places = [(name, folder / shard) for name, shard in named.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{file} is no index of weights: fetch the model again") from None
    for name, shard in places:
        if shard not in shards:
            raise ModelError(f"{file} places {name} in {shard.name}, which is not there: fetch the model again")
        if name not in shards[shard]:
            raise ModelError(f"{file} places {name} in {shard.name}, which does not hold it: fetch the model again")
