"""Which words rows hold, as counts in a fixed number of buckets: a sketch that any two sets of rows can be compared by.

A word is a run of letters, digits, marks and underscores, case aside. In scripts that put no space between words
(Chinese, Japanese, Thai, Lao, Burmese, Khmer) every character is a word. No language is guessed.

A bucket counts the *rows* that hold one of its words, not the words: one row that repeats a word ten thousand times
weighs no more than another, and the counts behave like draws of rows (see `tasks.data.drift`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

BUCKETS = 4096
"""2^12: the top 12 bits of a word's hash."""

Counts = NDArray[np.int64]
_Hashes = NDArray[np.uint64]

_OUTSIDE, _INSIDE, _ALONE = 0, 1, 2
_END = 0x323C0
"""Code points from here on (private use, unassigned) are no words."""
_SPACELESS = (
    (0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3005, 0x3008), (0x3040, 0x3100), (0x31F0, 0x3200),
    (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFF9E), (0x1B000, 0x1B170), (0x20000, _END),
)  # fmt: skip
_ROWS = 256
"""Texts in one table of 1 MiB."""
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2^64."""


def rows_with_words(texts: Sequence[str]) -> tuple[Counts, int]:
    """For each bucket the number of texts that hold one of its words; and the number of texts without any word.

    Law: the counts of two lists add up to those of their concatenation.
    """
    counts, wordless = np.zeros(BUCKETS, np.int64), 0
    for start in range(0, len(texts), _ROWS):
        held = _held(texts[start : start + _ROWS])
        counts += held.sum(axis=0)
        wordless += len(held) - int(held.any(axis=1).sum())
    return counts, wordless


def _held(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which text holds which bucket, shape (texts, BUCKETS). Marking a table is ten times as fast as sorting pairs."""
    ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    codes = np.frombuffer(("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass"), "<u4")
    begins, buckets = _words(np.minimum(codes, _END))
    held = np.zeros((len(texts), BUCKETS), np.bool_)
    held[np.searchsorted(ends, begins, side="right"), buckets] = True
    return held


def _words(codes: NDArray[np.uint32]) -> tuple[Counts, Counts]:
    """Where each word begins, and its bucket.

    A word's hash is the polynomial of its letters modulo 2^64 (Karp & Rabin 1987), from prefix sums over the whole
    text; dividing by the factor's power at its first letter makes it the same wherever the word stands.
    """
    kinds, letters = _alphabet()
    kind = kinds[codes]
    inside, alone = kind == _INSIDE, kind == _ALONE
    begins = np.flatnonzero(alone | (inside & ~np.r_[False, inside[:-1]]))
    ends = np.flatnonzero(alone | (inside & ~np.r_[inside[1:], False])) + 1
    powers, inverses = _powers(1 << len(codes).bit_length())
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(letters[codes] * powers[: len(codes)], out=sums[1:])
    hashes = (sums[ends] - sums[begins]) * inverses[begins]
    return begins, (_mixed(hashes) >> np.uint64(52)).astype(np.int64)


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[_Hashes, _Hashes]:
    """The first powers of the factor and of its inverse, modulo 2^64."""
    bases = (_FACTOR, pow(_FACTOR, -1, 1 << 64))
    first, second = (np.cumprod(np.r_[np.uint64(1), np.full(count - 1, base, np.uint64)]) for base in bases)
    return first, second


@cache
def _alphabet() -> tuple[NDArray[np.uint8], _Hashes]:
    """For each code point its part in words, and the number that its lower-case letter stands for."""
    letters = [chr(code) for code in range(_END)]
    within = [unicodedata.category(letter)[0] in "LMN" or letter == "_" for letter in letters]
    kinds = np.array([*within, False], np.uint8)
    for first, end in _SPACELESS:
        kinds[first:end] *= _ALONE
    lower = np.array([*(ord(letter.lower()[0]) for letter in letters), 0], np.uint64)
    return kinds, _mixed(lower)


def _mixed(values: _Hashes) -> _Hashes:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the input sways every bit of the output."""
    values = values + np.uint64(_FACTOR)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
