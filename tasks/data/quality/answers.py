"""Answers that teach little: refusals, loops, and the same answer to many prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.core.sections import Answers
from tasks.data.quality.finding import Finding
from tasks.data.quality.refusals import refuses
from tasks.data.rows import Row

_UNITS = re.compile(r"[\u3041-\u30ff\u3400-\u9fff]|\w+")
_LOOP_GRAM = 5
_LOOP_FEWEST = 20  # words; a refrain in a shorter answer is no loop
_LOOP_SHARE = 0.5

_KEPT = 1 << 16


def examine(row: Row, params: Answers) -> list[Finding]:
    """What is wrong with the row's answers by themselves."""
    spoken = [message.text for message in row.messages if message.role == "assistant" and message.text]
    found: list[Finding] = []
    if params.refusals != "ignore" and spoken and refuses(spoken[-1]):
        found.append(Finding("answers.refusals", params.refusals, "the last answer begins as a refusal"))
    if params.loops != "ignore" and (share := max(map(repeated, spoken), default=0.0)) > _LOOP_SHARE:
        found.append(Finding("answers.loops", params.loops, f"{share:.0%} of an answer's 5-grams repeat earlier ones"))
    return found


def repeated(answer: str) -> float:
    """Share of the answer's word 5-grams that occurred in it before; 0 for one of fewer than 20 words.

    After the repetition measures of Rae et al. 2021 (Gopher, table A1). In Han and kana a character is a word.
    """
    words = _UNITS.findall(answer)
    grams = len(words) - _LOOP_GRAM + 1
    # So many different words can't come from few different grams: most answers are settled here.
    if len(words) < _LOOP_FEWEST or len(set(words)) > (1 - _LOOP_SHARE) * grams + _LOOP_GRAM:
        return 0.0
    return 1 - len(set(zip(*(words[place:] for place in range(_LOOP_GRAM)), strict=False))) / grams


def key(row: Row) -> int:
    """64 bits that equal last answers have in common, case, punctuation and spacing aside."""
    answer = row.messages[-1]
    said = answer.text or " ".join(f"{call.name} {call.arguments}" for call in answer.tool_calls)
    normal = " ".join(_UNITS.findall(said.casefold())) or said
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Repeats:
    """How often each of the commonest answers was given: the summary of Misra and Gries 1982, mergeable after
    Agarwal et al. 2012.

    Up to 65,536 different answers the counts are exact. Beyond, a count is never too high and too low by at most
    `lost`, itself at most rows / 65,537: 15 for a million rows. So no answer is called repeated that is not.
    """

    counts: Mapping[int, int]
    lost: int = 0

    @classmethod
    def of(cls, keys: Iterable[int]) -> Repeats:
        """Count the keys of some rows, one for each different prompt."""
        found: dict[int, int] = {}
        lost = 0
        for item in keys:
            found[item] = found.get(item, 0) + 1
            if len(found) >= 2 * _KEPT:
                found, less = _cut(found)
                lost += less
        counts, less = _cut(found)
        return cls(counts, lost + less)

    def __add__(self, other: Repeats) -> Repeats:
        """Law: the bound holds for the sum; below 65,536 different answers, addition is associative."""
        total = dict(self.counts)
        for item, count in other.counts.items():
            total[item] = total.get(item, 0) + count
        counts, less = _cut(total)
        return Repeats(counts, self.lost + other.lost + less)

    def above(self, most: int) -> dict[int, int]:
        """The keys that surely stand with more than `most` prompts, and how many (at the least)."""
        return {item: count for item, count in self.counts.items() if count > most}


def _cut(counts: dict[int, int]) -> tuple[dict[int, int], int]:
    """The commonest _KEPT, each less the count of the next one."""
    if len(counts) <= _KEPT:
        return counts, 0
    less = sorted(counts.values(), reverse=True)[_KEPT]
    return {item: count - less for item, count in counts.items() if count > less}, less
