"""A GGUF file's tensors as bfloat16 safetensors: unpacked a few rows at a time, written straight to the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.core import events, weights
from tasks.ml.gguf_base.architectures import Place
from tasks.ml.gguf_base.blocks import Kind, Library
from tasks.ml.gguf_base.reader import Gguf, Tensor, refuse

NUMPY = Library(half=np.float16, signed=np.int8, single=lambda values: values.astype(np.float32))

_AT_ONCE = 1 << 18
"""Values unpacked in one go: their float32 fits a processor's second-level cache."""

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]


def write(gguf: Gguf, places: Mapping[str, Place], file: Path) -> None:
    """Write every tensor in the order of its name. ModelError: a value is not finite."""
    named = sorted((place.name, name) for name, place in places.items())
    with file.open("wb") as stream:
        shapes = {place: _shape(places[name]) for place, name in named}
        sizes = {place: ("BF16", shape, 2 * math.prod(shape)) for place, shape in shapes.items()}
        stream.write(weights.compose(sizes, {"format": "pt"}))
        for done, (_, name) in enumerate(named, start=1):
            for words in bfloat16(gguf, name, places[name]):
                stream.write(words.data)
            events.progress("unpack", done, len(named))


def _shape(place: Place) -> tuple[int, ...]:
    return place.shape[::-1] if place.transposed else place.shape


def bfloat16(gguf: Gguf, name: str, place: Place) -> Iterator[Words]:
    """The tensor's values as bfloat16 bits, in pieces that follow each other."""
    tensor = gguf.tensors[name]
    pieces = _pieces(gguf, name, packed_rows(gguf, tensor, place.heads), tensor.kind)
    if not place.transposed:
        yield from pieces
    else:
        whole = np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(place.shape)
        yield np.ascontiguousarray(whole.T)


def packed_rows(gguf: Gguf, tensor: Tensor, heads: int) -> Bytes:
    """The tensor's blocks as they lie in the file, a row of the matrix each; `heads`: rows back in the model's order."""
    rows = np.frombuffer(gguf.data, np.uint8, tensor.end - tensor.start, tensor.start)
    rows = rows.reshape(-1, tensor.shape[-1] // tensor.kind.elements * tensor.kind.size)
    if not heads:
        return rows
    # llama.cpp pairs dimension i of a head with i + half; Hugging Face's Llama keeps the halves apart.
    paired = rows.reshape(heads, len(rows) // heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)


def _pieces(gguf: Gguf, name: str, rows: Bytes, kind: Kind) -> Iterator[Words]:
    blocks = rows.reshape(-1, kind.size)
    step = max(_AT_ONCE // kind.elements, 1)
    for start in range(0, len(blocks), step):
        words = _words(blocks[start : start + step], kind)
        if (words & 0x7F80).max() == 0x7F80:
            refuse(gguf.file, f"the tensor {name!r} holds values that are not finite")
        yield words


def _words(blocks: Bytes, kind: Kind) -> Words:
    if kind.name == "BF16":
        return blocks.view(np.uint16)
    with np.errstate(all="ignore"):  # what is not finite is found in the result
        return rounded(_values(blocks, kind))


def _values(blocks: Bytes, kind: Kind) -> NDArray[np.float32]:
    if kind.name == "F32":
        return blocks.view(np.float32).copy()
    if kind.unpack is not None:
        values = np.empty((len(blocks), kind.elements), np.float32)
        kind.unpack(blocks, values, NUMPY)
        return values
    from gguf import GGMLQuantizationType, dequantize  # formats too rare to be written down a second time

    return dequantize(blocks, GGMLQuantizationType[kind.name])


def rounded(values: NDArray[np.float32]) -> Words:
    """The nearest bfloat16 of each value, ties to even, in its 16 bits; the values are used up.

    Law: for finite values equal to torch's `.to(torch.bfloat16)`.
    """
    bits = values.view(np.uint32)
    odd = bits >> 16
    odd &= 1
    bits += 0x7FFF
    bits += odd
    bits >>= 16
    return bits.astype(np.uint16)
