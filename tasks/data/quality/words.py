"""Words of many texts at once, as 64-bit hashes: what near duplicates and contamination compare.

A word is a run of letters, digits and underscores, case aside. In scripts that are written without spaces (Han, kana,
Thai, Lao, Burmese, Khmer) every character is a word. Punctuation, symbols, emoji and spacing are no words.

The hash of a word is the polynomial of its characters modulo 2**64 (Karp and Rabin 1987), then mixed (SplitMix64,
Steele et al. 2014). It is the same in every process and on every machine: nothing is seeded by the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_STEP = 0xD1342543DE82EF95
_WIDTH = 64  # bits
_BLOCK = 1 << 16  # characters hashed together: their arrays fit a core's cache
_SEPARATOR = "\n"
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x3FFFF),
)  # fmt: skip


class Words(NamedTuple):
    """The word hashes of texts: text i has `hashes[offsets[i] : offsets[i + 1]]`."""

    hashes: Hashes
    offsets: Offsets


def of(texts: Sequence[str]) -> Words:
    """Words of each text, in order. Law: `of(a + b)` is `of(a)` followed by `of(b)`."""
    parts = [_block(block) for block in _blocks(texts)]
    if not parts:
        return Words(np.empty(0, np.uint64), np.zeros(1, np.int64))
    counts = np.concatenate([part[1] for part in parts])
    return Words(np.concatenate([part[0] for part in parts]), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def grams(words: Words, n: int, shortest: int = 1) -> Words:
    """Hashes of every n words in a row of each text, in order; of all its words where a text has fewer than n, if
    there are at least `shortest`.

    Law: two texts share a gram exactly where they share n words in a row (but for collisions, 2**-64 a pair).
    """
    counts = np.diff(words.offsets)
    whole = (counts < n) & (counts >= max(shortest, 1))
    sizes = np.where(whole, 1, np.maximum(counts - n + 1, 0))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    first = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1] - words.offsets[:-1], sizes)
    padded = np.concatenate([words.hashes, np.zeros(n, np.uint64)])
    mixed = np.zeros(len(first), np.uint64)
    for place in range(n):
        mixed = (mixed + padded[first + place]) * np.uint64(_STEP)
    for text in np.flatnonzero(whole):
        mixed[offsets[text]] = _all_of(words.hashes[words.offsets[text] : words.offsets[text + 1]])
    return Words(_mix(mixed), offsets)


def wordless(text: str) -> int:
    """What stands for a text without words (marks, emoji): a hash of its characters, spacing aside."""
    return int.from_bytes(hashlib.blake2b("".join(text.split()).encode(), digest_size=8).digest(), "little")


def _all_of(hashes: Hashes) -> np.uint64:
    value = len(hashes)
    for word in hashes.tolist():
        value = ((value + word) * _STEP) % (1 << _WIDTH)
    return np.uint64(value)


def _blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in order, in groups of about _BLOCK characters; a longer text is a group of its own."""
    block: list[str] = []
    size = 0
    for text in texts:
        if block and size + len(text) > _BLOCK:
            yield block
            block, size = [], 0
        block.append(text.lower() if text.isascii() else text.casefold())
        size += len(text) + 1
    if block:
        yield block


def _block(texts: list[str]) -> tuple[Hashes, Offsets]:
    """Word hashes of a block's texts, and how many each text has."""
    joined = _SEPARATOR.join((*texts, ""))
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[codes]
    starts, ends = _bounds(kinds)
    powers, inverses = _powers(1 << max(len(codes) - 1, _BLOCK).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    hashes = _mix((sums[ends] - sums[starts]) * inverses[starts])
    ends_of_texts = np.cumsum([len(text) + 1 for text in texts])
    return hashes, np.diff(np.searchsorted(starts, ends_of_texts), prepend=0).astype(np.int64)


def _bounds(kinds: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where words start, and where they end."""
    before = np.concatenate([np.zeros(1, np.uint8), kinds[:-1]])
    after = np.concatenate([kinds[1:], np.zeros(1, np.uint8)])
    alone = kinds == 2
    spaced = kinds == 1
    return np.flatnonzero(alone | (spaced & (before != 1))), np.flatnonzero(alone | (spaced & (after != 1))) + 1


def _mix(values: Hashes) -> Hashes:
    """SplitMix64's finaliser: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """For every code point: 0 no word, 1 part of a word, 2 a word of its own. 1.1 MB, made once a process."""
    points = np.arange(0x110000, dtype=np.uint32)
    points[0xD800:0xE000] = 0  # surrogates are no characters
    kinds = np.strings.isalnum(points.view("U1")).astype(np.uint8)
    kinds[ord("_")] = 1
    for low, high in _UNSPACED:
        kinds[low : high + 1] *= 2
    return kinds


@cache
def _powers(size: int) -> tuple[Hashes, Hashes]:
    """The first `size` powers of the base modulo 2**64, and their inverses."""
    inverse = pow(_BASE, -1, 1 << _WIDTH)
    return _progression(_BASE, size), _progression(inverse, size)


def _progression(ratio: int, size: int) -> Hashes:
    values = np.full(size, ratio, np.uint64)
    values[0] = 1
    return np.multiply.accumulate(values)
