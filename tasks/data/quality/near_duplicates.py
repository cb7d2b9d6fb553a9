"""Rows that say almost the same: MinHash signatures and a banded search among them.

The similarity of two texts is the Jaccard index of their sets of word 3-grams (Broder 1997); the share of equal
signature entries estimates it with a standard error of at most sqrt(s(1 - s) / PERMUTATIONS): 0.027 at 0.9.
Candidates agree on all entries of a band (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4).

A row falls only where it is similar to a row that stays. Chains (a like b, b like c) are not followed: in templated
corpora they would tie everything to everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without stubs

from tasks.data.quality import words
from tasks.data.rows import Row

PERMUTATIONS = 128
NONE = -1

_SEED = 1997
_GRAM = 3  # words
_CANDIDATE = 0.995  # chance that a pair exactly at the wanted similarity shares a band
_PASSES = 16
_ROUNDS = 8
_PAIRS = 1 << 9  # compared at once: each may map 128 KB of a file around its two rows
_CHUNK = 1 << 13  # signatures in memory at once: 4 MB

Signatures = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


class Bands(NamedTuple):
    """`number` bands of `width` signature entries each."""

    number: int
    width: int


def text(row: Row) -> str:
    """What of a row is compared: all turns but the system's, which many rows share, with the calls of tools."""
    turns = [message for message in row.messages if message.role != "system"]
    calls = (orjson.dumps([call.name, call.arguments]).decode() for turn in turns for call in turn.tool_calls)
    return "\n".join([*(turn.text for turn in turns), *calls, *row.images])


def signatures(texts: Sequence[str]) -> Signatures:
    """MinHash signatures, shape (texts, PERMUTATIONS), of the texts' word 3-grams; case, punctuation and spacing aside.

    Law: a text's signature depends on nothing but the text.
    """
    if not texts:
        return np.empty((0, PERMUTATIONS), np.uint32)
    grams = _marked(words.grams(words.of(texts), _GRAM), texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams.hashes, grams.offsets, PERMUTATIONS, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _marked(grams: words.Words, texts: Sequence[str]) -> words.Words:
    """A text without words is told by its marks: else all of them would be equal."""
    counts = np.diff(grams.offsets)
    empty = np.flatnonzero(counts == 0).tolist()
    if not empty:
        return grams
    marks = np.array([words.wordless(texts[place]) for place in empty], np.uint64)
    hashes = np.insert(grams.hashes, grams.offsets[empty], marks)
    return words.Words(hashes, np.concatenate([[0], np.cumsum(np.maximum(counts, 1))]).astype(np.int64))


def bands(similarity: float) -> Bands:
    """The widest bands that find a pair at `similarity` with a chance of 0.995: wider means fewer idle comparisons."""
    for width in range(PERMUTATIONS, 0, -1):
        shared = similarity**width
        number = 1 if shared == 1 else math.ceil(math.log(1 - _CANDIDATE) / math.log1p(-shared))
        if number * width <= PERMUTATIONS:
            return Bands(number, width)
    return Bands(PERMUTATIONS, 1)


def accepted(similarity: float) -> int:
    """How many entries must agree: `similarity` less one standard error, so that most pairs at it are found.

    A pair exactly at the similarity is found with about 84 %; without the allowance it would be 50 %.
    """
    error = math.sqrt(similarity * (1 - similarity) / PERMUTATIONS)
    return math.ceil((similarity - error) * PERMUTATIONS - 1e-9)


def find(signatures: Signatures, similarity: float, release: Callable[[], None] = lambda: None) -> Places:
    """For each row the place of an earlier row that it is a near duplicate of and that is none itself, or NONE.

    `signatures`, in order of arrival, may be mapped from a file; `release` is then called whenever a part has been read,
    to give its memory back. Memory: about 70 bytes a row, whatever PERMUTATIONS. Time is
    linear in the rows but for the sorting: in a bucket rows are compared with its first one, the rest with the first
    of the rest, in at most _ROUNDS rounds.

    Laws: found[i] < i; found[found[i]] is NONE; equal texts are always found.
    """
    found = np.full(len(signatures), NONE, np.int64)
    for _ in range(_PASSES):
        alive = np.flatnonzero(found == NONE)
        first = _first_alike(signatures, alive, similarity, release)
        falling = _odd_links(first)
        if not len(falling):
            break
        found[alive[falling]] = alive[first[falling]]
        _follow(found, signatures, similarity, release)
    return found


def _follow(found: Places, signatures: Signatures, similarity: float, release: Callable[[], None]) -> None:
    """Where a row's like has fallen itself: take what that one fell for if it is alike, else let the row live again."""
    astray = np.flatnonzero((found != NONE) & (found[found] != NONE))
    further = found[found[astray]]
    alike = _alike(signatures, further, astray, accepted(similarity), release)
    found[astray] = np.where(alike, further, NONE)


def _odd_links(first: Places) -> Places:
    """Which rows fall: those whose earlier like stays, decided in order."""
    falls = np.zeros(len(first), np.bool_)
    linked = np.flatnonzero(first != NONE)
    for start in range(0, len(linked), _CHUNK):
        block = linked[start : start + _CHUNK]
        for row, like in zip(block.tolist(), first[block].tolist(), strict=True):
            falls[row] = not falls[like]
    return np.flatnonzero(falls)


def _first_alike(signatures: Signatures, alive: Places, similarity: float, release: Callable[[], None]) -> Places:
    """For each living row the earliest similar one among its bands' leaders, as a place in `alive`, or NONE."""
    first = np.full(len(alive), NONE, np.int64)
    number, width = bands(similarity)
    for band in range(number):
        keys = _keys(signatures, alive, slice(band * width, (band + 1) * width), release)
        for leaders, members in _pairs(keys, first, signatures, alive, accepted(similarity), release):
            first[members] = leaders
    return first


def _keys(signatures: Signatures, alive: Places, columns: slice, release: Callable[[], None]) -> npt.NDArray[np.uint64]:
    """One 64-bit hash of each living row's band."""
    keys = np.empty(len(alive), np.uint64)
    odd = np.random.default_rng(_SEED).integers(1 << 63, size=PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    for start in range(0, len(alive), _CHUNK):
        rows = alive[start : start + _CHUNK]
        keys[start : start + _CHUNK] = (signatures[rows, columns] * odd[columns]).sum(axis=1, dtype=np.uint64)
        release()
    return keys


def _pairs(
    keys: npt.NDArray[np.uint64],
    first: Places,
    signatures: Signatures,
    alive: Places,
    needed: int,
    release: Callable[[], None],
) -> Iterator[tuple[Places, Places]]:
    """Verified (leaders, members) of the buckets, a round at a time."""
    order = np.argsort(keys, kind="stable")  # stable: in a bucket the earliest row comes first
    for _ in range(_ROUNDS):
        leading = _heads(keys, order)
        leaders = order[leading]
        open_ = (leaders != order) & ((first[order] == NONE) | (first[order] > leaders))
        like = open_.copy()
        like[open_] = _alike(signatures, alive[leaders[open_]], alive[order[open_]], needed, release)
        yield leaders[like], order[like]
        order = order[open_ & ~like]
        if not len(order):
            return


def _heads(keys: npt.NDArray[np.uint64], order: Places) -> Places:
    """For each place in the sorted order the place of its bucket's first row."""
    ordered = keys[order]
    new = np.concatenate([np.ones(1, np.bool_), ordered[1:] != ordered[:-1]])[: len(order)]
    return np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))


def _alike(
    signatures: Signatures, left: Places, right: Places, needed: int, release: Callable[[], None]
) -> npt.NDArray[np.bool_]:
    """Whether at least `needed` entries of the pairs agree, a block of pairs in memory at a time."""
    equal = np.empty(len(left), np.bool_)
    for start in range(0, len(left), _PAIRS):
        block = slice(start, start + _PAIRS)
        equal[block] = (signatures[left[block]] == signatures[right[block]]).sum(axis=1, dtype=np.int64) >= needed
        release()
    return equal
