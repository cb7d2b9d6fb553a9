"""Answers that name a class: when two labels are one, macro-F1 row by row, and what is taken for what."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

_AROUND = " \t\r\n.!,;:'\"`*“”‘’«»„"
OTHER = "(other)"
"""Shown for an answer that is no label of the references."""


def label(text: str) -> str:
    """Case, width, surrounding space, quotes and stops aside, and inner space as one.

    Law: `label(label(t)) == label(t)`.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split()).strip(_AROUND)


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """One pseudo-value a row; their mean is macro-F1 over the K labels of the references.

    With TP true positives of a class c, and D = |answers of c| + |references of c|, its F1 is 2 TP / D. Row i adds t_i = 2 if
    answer and reference are both c to the numerator, and d_i, 0 to 2, to D. The row's value is

        macro-F1 + N/K * sum over c of (t_i - F1 * d_i) / D,

    macro-F1 plus the row's influence on it (the delta method; Hampel 1974): the sum over rows of t_i - F1 d_i is 0, so that
    the mean is exact, and the variance of the mean is that of macro-F1 up to terms in 1/N^2. An answer that is no label of
    the references counts against its reference's class alone, so that K is the same for all models.
    """
    ours, wanted = [label(text) for text in answers], [label(text) for text in references]
    given, asked = Counter(ours), Counter(wanted)
    hits = Counter(one for one, other in zip(ours, wanted, strict=True) if one == other)
    size = {name: given[name] + count for name, count in asked.items()}
    score = {name: 2 * hits[name] / size[name] for name in asked}
    mean = sum(score.values()) / len(score)

    def influence(name: str, one: str, other: str) -> float:
        both = (one == name) + (other == name)
        return ((2.0 if both == 2 else 0.0) - score[name] * both) / size[name]

    scale = len(wanted) / len(score)
    return [
        mean + scale * sum(influence(name, one, other) for name in {one, other} if name in score)
        for one, other in zip(ours, wanted, strict=True)
    ]


def confusion(
    answers: Sequence[str], references: Sequence[str], most: int
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """The `most` frequent labels of the references, then OTHER; and how often each (row) was answered as each (column).

    Law: the counts add up to the number of answers.
    """
    ours, wanted = [label(text) for text in answers], [label(text) for text in references]
    frequent = sorted(Counter(wanted).items(), key=lambda item: (-item[1], item[0]))[:most]
    names = [*sorted(name for name, _ in frequent), OTHER]
    place = {name: number for number, name in enumerate(names)}
    counts = Counter(
        (place.get(other, len(frequent)), place.get(one, len(frequent)))
        for one, other in zip(ours, wanted, strict=True)
    )
    every = range(len(names))
    return tuple(names), tuple(tuple(counts[row, column] for column in every) for row in every)
