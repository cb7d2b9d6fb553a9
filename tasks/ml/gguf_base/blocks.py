"""The number formats of GGUF tensors: how many values share a block of how many bytes, and what values they are.

Each formula is written once for numpy arrays and torch tensors alike: a base is imported without torch, and the same
bytes are unpacked by torch in a forward pass. Operations and their order are those of the format's reference
(ggml-quants.c, `dequantize_row_*`), in float32, so results agree with it bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MIN = 2
"""Bytes after which a second scale stands where a block has two."""


@dataclass(frozen=True)
class Library:
    """What numpy and torch spell differently: two types to view bytes as, and the way to float32."""

    half: Any
    signed: Any
    single: Callable[[Any], Any]


Unpack = Callable[[Any, Any, Library], None]
"""(blocks [n, size] uint8, values [n, elements] float32 to be written, library)."""


@dataclass(frozen=True)
class Kind:
    """A tensor type. `unpack` is None where only the `gguf` package knows how."""

    name: str
    elements: int
    size: int
    unpack: Unpack | None = None


def _scale(blocks: Any, start: int, lib: Library) -> Any:
    return lib.single(blocks[:, start : start + 2].view(lib.half))


def _nibbles(quants: Any, values: Any) -> None:
    """32 values from 16 bytes: the low halves come first. Both libraries are fastest on bytes without gaps."""
    quants = quants.reshape(-1).reshape(-1, 16)
    values[:, :16] = quants & 15
    values[:, 16:] = quants >> 4


def _fifth_bits(quants: Any, values: Any) -> None:
    """Add 16 where the value's bit of the 4 bytes, lowest first, is set."""
    for place in range(32):
        values[:, place] += lift(quants[:, place // 8] >> (place % 8))


def lift(bits: Any) -> Any:
    return (bits & 1) << 4


def _f16(blocks: Any, values: Any, lib: Library) -> None:
    values[:] = blocks.view(lib.half)


def _q4_0(blocks: Any, values: Any, lib: Library) -> None:
    _nibbles(blocks[:, 2:], values)
    values -= 8
    values *= _scale(blocks, 0, lib)


def _q4_1(blocks: Any, values: Any, lib: Library) -> None:
    _nibbles(blocks[:, 4:], values)
    values *= _scale(blocks, 0, lib)
    values += _scale(blocks, MIN, lib)


def _q5_0(blocks: Any, values: Any, lib: Library) -> None:
    _nibbles(blocks[:, 6:], values)
    _fifth_bits(blocks[:, 2:6], values)
    values -= 16
    values *= _scale(blocks, 0, lib)


def _q5_1(blocks: Any, values: Any, lib: Library) -> None:
    _nibbles(blocks[:, 8:], values)
    _fifth_bits(blocks[:, 4:8], values)
    values *= _scale(blocks, 0, lib)
    values += _scale(blocks, MIN, lib)


def _q8_0(blocks: Any, values: Any, lib: Library) -> None:
    values[:] = blocks[:, 2:].view(lib.signed)
    values *= _scale(blocks, 0, lib)


def _sixes(packed: Any, lib: Library) -> tuple[Any, Any]:
    """Eight scales and eight minima of 6 bits from the 12 bytes that Q4_K and Q5_K keep them in."""
    scales, minima = packed[:, :8] & 63, packed[:, 4:12] & 15
    minima[:, :4] = packed[:, 4:8] & 63
    minima[:, 4:] = (packed[:, 8:] >> 4) | ((packed[:, 4:8] >> 2) & 48)
    scales[:, 4:] = (packed[:, 8:] & 15) | ((packed[:, :4] >> 2) & 48)
    return lib.single(scales), lib.single(minima)


def _scaled(blocks: Any, values: Any, lib: Library) -> None:
    """`values` [n, 8, 32] become d * scale * q - dmin * minimum."""
    scales, minima = _sixes(blocks[:, 4:16], lib)
    values *= (_scale(blocks, 0, lib) * scales)[:, :, None]
    values -= (_scale(blocks, MIN, lib) * minima)[:, :, None]


def _q4_k(blocks: Any, values: Any, lib: Library) -> None:
    groups, quants = values.reshape(-1, 8, 32), blocks[:, 16:].reshape(-1, 4, 32)
    groups[:, 0::2] = quants & 15
    groups[:, 1::2] = quants >> 4
    _scaled(blocks, groups, lib)


def _q5_k(blocks: Any, values: Any, lib: Library) -> None:
    groups, quants, high = values.reshape(-1, 8, 32), blocks[:, 48:].reshape(-1, 4, 32), blocks[:, 16:48]
    groups[:, 0::2] = quants & 15
    groups[:, 1::2] = quants >> 4
    for place in range(8):
        groups[:, place] += lift(high >> place)
    _scaled(blocks, groups, lib)


def _q6_k(blocks: Any, values: Any, lib: Library) -> None:
    groups = values.reshape(-1, 2, 4, 32)
    low, high = blocks[:, :128].reshape(-1, 2, 2, 32), blocks[:, 128:192].reshape(-1, 2, 32)
    for place in range(4):
        nibble = low[:, :, place] & 15 if place < 2 else low[:, :, place - 2] >> 4
        groups[:, :, place] = nibble | (((high >> (2 * place)) & 3) << 4)
    groups -= 32
    scales = _scale(blocks, 208, lib) * lib.single(blocks[:, 192:208].view(lib.signed))
    values.reshape(-1, 16, 16)[:] *= scales[:, :, None]


KINDS = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2, _f16),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    6: Kind("Q5_0", 32, 22, _q5_0),
    7: Kind("Q5_1", 32, 24, _q5_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    12: Kind("Q4_K", 256, 144, _q4_k),
    13: Kind("Q5_K", 256, 176, _q5_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    16: Kind("IQ2_XXS", 256, 66),
    17: Kind("IQ2_XS", 256, 74),
    18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50),
    20: Kind("IQ4_NL", 32, 18),
    21: Kind("IQ3_S", 256, 110),
    22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136),
    29: Kind("IQ1_M", 256, 56),
    30: Kind("BF16", 1, 2),
    34: Kind("TQ1_0", 256, 54),
    35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17),
}
"""By the number that the format gives the type."""
