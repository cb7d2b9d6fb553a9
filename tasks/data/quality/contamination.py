"""Test rows that stand in training rows: by shared word n-grams.

The 13 words of a gram, and that common grams don't count, are from Brown et al. 2020 (GPT-3, appendix C); that a share
of the test text must be found, not one gram, is from Chowdhery et al. 2022 (PaLM, section 8). The rule:

- A row's texts are its user's turns and its answers, each by itself. System turns, tool calls and tool results say
  nothing about a leak, nor do turns that are JSON: labels and records repeat by their nature.
- A text of fewer than n words is one gram of all its words; one of fewer than 8 says too little and is left out.
- A gram in more than COMMON_TEST test rows is boilerplate, and so is one in more than COMMON_TRAIN training rows.
- A training row is contaminated where SHARE of the words of one test text, boilerplate aside, are found in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.data.quality import words
from tasks.data.rows import Row

COMMON_TEST = 2
COMMON_TRAIN = 10
SHARE = 0.5

_SHORTEST = 8  # words; the least that Brown et al. compare

Numbers = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Grams:
    """The grams of some rows' texts: gram i has hash `hashes[i]` and begins at word `places[i]` of text `texts[i]`,
    which has `lengths[texts[i]]` words and belongs to row `owners[texts[i]]`.
    """

    hashes: words.Hashes
    texts: Numbers
    places: Numbers
    lengths: Numbers
    owners: Numbers

    @classmethod
    def of(cls, rows: Iterable[Row], ngram: int) -> Grams:
        spoken: list[str] = []
        owners: list[int] = []
        for number, row in enumerate(rows):
            compared = texts(row)
            spoken += compared
            owners += [number] * len(compared)
        found = words.of(spoken)
        grams = words.grams(found, ngram, min(_SHORTEST, ngram))
        sizes = np.diff(grams.offsets)
        places = np.arange(len(grams.hashes), dtype=np.int64) - np.repeat(grams.offsets[:-1], sizes)
        numbers = np.repeat(np.arange(len(spoken), dtype=np.int64), sizes)
        return cls(grams.hashes, numbers, places, np.diff(found.offsets), np.array(owners, np.int64))

    def at(self, chosen: npt.NDArray[np.bool_] | Numbers) -> Grams:
        """Some of the grams, in the order given."""
        return Grams(self.hashes[chosen], self.texts[chosen], self.places[chosen], self.lengths, self.owners)

    @property
    def rows(self) -> Numbers:
        return self.owners[self.texts]


@dataclass(frozen=True)
class Hits:
    """Grams of an index that stand in training rows, each once a row: the row's number, and the gram's span in the
    index, from `low` to before `high`. All of shape (hits,).
    """

    rows: Numbers
    low: Numbers
    high: Numbers


def hits(hashes: words.Hashes, train: Iterable[Row], ngram: int) -> Hits:
    """Where the training rows have grams of an index, given its sorted `hashes`."""
    grams = Grams.of(train, ngram)
    low = np.searchsorted(hashes, grams.hashes)
    known = low < len(hashes)
    known[known] = hashes[low[known]] == grams.hashes[known]
    pairs = np.unique(np.stack([grams.hashes[known], grams.rows[known].astype(np.uint64)]), axis=1)
    first, end = (np.searchsorted(hashes, pairs[0], side) for side in ("left", "right"))
    return Hits(pairs[1].astype(np.int64), first, end)


@dataclass(frozen=True)
class Index:
    """The test rows' grams, sorted by hash: 24 bytes a gram. `reach` is how many words of each text they cover."""

    ngram: int
    grams: Grams
    reach: Numbers

    @classmethod
    def of(cls, test: Iterable[Row], ngram: int) -> Index:
        """The index of the test rows, less what more than COMMON_TEST of them share."""
        grams = Grams.of(test, ngram)
        grams = grams.at(np.argsort(grams.hashes, kind="stable"))
        return cls._over(ngram, grams.at(_sharers(grams) <= COMMON_TEST))

    @classmethod
    def _over(cls, ngram: int, grams: Grams) -> Index:
        reach = np.zeros(len(grams.lengths), np.int64)
        touched, covered = _covered(grams.texts, grams, np.arange(len(grams.texts)), ngram)
        reach[touched] = covered
        return cls(ngram, grams, reach)

    def only(self, kept: npt.NDArray[np.bool_]) -> Index:
        """The index of some of its grams."""
        return self._over(self.ngram, self.grams.at(kept))

    def shares(self, found: Hits, rows: int) -> npt.NDArray[np.float64]:
        """For each of so many training rows the largest share, 0 to 1, of one test text's words that is found in it."""
        shares = np.zeros(rows)
        sizes = found.high - found.low
        places = np.arange(sizes.sum()) + np.repeat(found.low - np.cumsum(sizes) + sizes, sizes)
        keys, covered = _covered(
            np.repeat(found.rows, sizes) * len(self.reach) + self.grams.texts[places], self.grams, places, self.ngram
        )
        owners, texts = np.divmod(keys, max(len(self.reach), 1))
        np.maximum.at(shares, owners, covered / self.reach[texts])
        return shares


class Leaks:
    """What training rows share with the test rows of an index, gathered a list of rows at a time.

    A gram that more than COMMON_TRAIN training rows have is boilerplate (a template, a greeting, a disclaimer), so of each
    no more hits than that are kept: memory goes with the test rows, not with the training rows.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._counts = np.zeros(len(index.grams.hashes), np.int64)
        self._parts: list[Hits] = []

    def add(self, found: Hits, start: int) -> None:
        """Take in the hits of some rows, the first of which is row number `start` of all."""
        np.add.at(self._counts, found.low, 1)
        kept = self._counts[found.low] <= COMMON_TRAIN
        self._parts.append(Hits(found.rows[kept] + start, found.low[kept], found.high[kept]))

    def shares(self, rows: int) -> npt.NDArray[np.float64]:
        """`Index.shares` of all rows that were taken in, boilerplate aside."""
        empty = np.empty(0, np.int64)
        numbers, low, high = (
            np.concatenate([empty, *(getattr(part, name) for part in self._parts)]) for name in ("rows", "low", "high")
        )
        hashes = self._index.grams.hashes
        rare = self._counts[np.searchsorted(hashes, hashes)] <= COMMON_TRAIN  # equal grams are counted at their first
        place, kept = np.concatenate([[0], np.cumsum(rare)]), self._counts[low] <= COMMON_TRAIN
        found = Hits(numbers[kept], place[low[kept]], place[high[kept]])
        return self._index.only(rare).shares(found, rows)


def texts(row: Row) -> list[str]:
    """What of a row is compared."""
    spoken = (message.text for message in row.messages if message.role in ("user", "assistant"))
    return [text for text in spoken if text and text.lstrip()[:1] not in ("{", "[")]


def _sharers(grams: Grams) -> Numbers:
    """For each gram, sorted by hash and then by row, the number of rows that have its hash."""
    if not len(grams.hashes):
        return np.empty(0, np.int64)
    new = np.concatenate([[True], grams.hashes[1:] != grams.hashes[:-1]])
    another = new | np.concatenate([[True], grams.rows[1:] != grams.rows[:-1]])
    number = np.cumsum(new) - 1
    return np.bincount(number, weights=another).astype(np.int64)[number]


def _covered(keys: Numbers, grams: Grams, chosen: Numbers, ngram: int) -> tuple[Numbers, Numbers]:
    """The distinct keys, and how many words the chosen grams cover for each, every word once. A key has one text."""
    order = np.lexsort((grams.places[chosen], keys))
    keys, chosen = keys[order], chosen[order]
    step = np.minimum(grams.lengths[grams.texts[chosen]], ngram)
    follows = keys[1:] == keys[:-1]
    step[:-1][follows] = np.minimum(step[:-1], np.diff(grams.places[chosen]))[follows]
    distinct, first = np.unique(keys, return_index=True)
    return distinct, np.add.reduceat(step, first) if len(first) else step
