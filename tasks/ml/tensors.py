"""Tensors of safetensors files, read and written in place: no mapping, whose pages would count as this process's memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.core import weights
from tasks.core.errors import ModelError

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16, "BF16": torch.bfloat16, "I16": torch.int16, "U16": torch.uint16, "F32": torch.float32,
    "I32": torch.int32, "U32": torch.uint32, "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The format's names for torch's types."""
AT_ONCE = 1 << 30
"""Bytes in one call: the kernel takes less than 2 GB."""


@dataclass(frozen=True)
class Stored:
    """A tensor where it lies: `file`, and its place in it."""

    file: Path
    name: str
    place: weights.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape

    @property
    def dtype(self) -> torch.dtype:
        """ModelError: torch has no such type."""
        if self.place.dtype not in DTYPES:
            raise ModelError(f"{self.file}: {self.name} is of the type {self.place.dtype}, which torch does not have")
        return DTYPES[self.place.dtype]

    def read(self) -> Tensor:
        value = torch.empty(self.shape, dtype=self.dtype)
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            read_into(descriptor, value, self.place.start)
        finally:
            os.close(descriptor)
        return value


def stored(file: Path) -> dict[str, Stored]:
    """The file's tensors by name. ModelError: the file is damaged."""
    return {name: Stored(file, name, place) for name, place in weights.header(file).items()}


def finite(adapter: Path) -> dict[str, Stored]:
    """The tensors of an adapter's file by name, each read once to see that it is finite. ModelError: one is not, or
    there are none."""
    if not adapter.is_file():
        raise ModelError(f"{adapter.parent} has no {adapter.name}: restore the adapter, or train it again")
    found = stored(adapter)
    if not found:
        raise ModelError(f"{adapter} holds no tensors: restore the adapter, or train it again")
    for name, part in found.items():
        if not part.read().isfinite().all():
            raise ModelError(f"{adapter}: {name} is not finite: train again with a lower learning rate")
    return found


def read_into(descriptor: int, value: Tensor, offset: int) -> None:
    """Fill a contiguous tensor with the file's bytes from `offset` on. OSError: the file ends before."""
    view = memory(value)
    while len(view):
        count = os.preadv(descriptor, [view[:AT_ONCE]], offset)
        if not count:
            raise OSError(f"the file ends at {offset}, {len(view)} bytes early")
        view, offset = view[count:], offset + count


def write_from(descriptor: int, value: Tensor, offset: int) -> None:
    """Write a contiguous tensor's bytes at `offset`."""
    write_bytes(descriptor, memory(value), offset)


def write_bytes(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        count = os.pwrite(descriptor, view[:AT_ONCE], offset)
        view, offset = view[count:], offset + count


def memory(value: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, as they lie in memory."""
    return value.reshape(-1).view(torch.uint8).numpy().data
