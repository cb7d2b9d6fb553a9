"""A corpus of any size for the benchmark of the data preparation, made from real conversations.

Every tenth row repeats an earlier one exactly. The others are all different: first each real conversation once, in an
order drawn from the seed, then variations: the front of one conversation's texts joined to the back of another's of the
same source, shape and about the same length. So lengths, languages and turns stay those of the real rows, and hardly a
variation is another's near duplicate (6 of 20,000 at a Jaccard similarity of 0.8 over 5-grams of words).
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.measuring.child import Unprepared

DATA = Path(__file__).parents[3] / "shared" / "data"
REPEATED = 10
"""One row in so many is an exact duplicate: 10 %."""
NEAR = 16
"""A variation's two parents lie so close in the order of lengths. Smaller families are not varied."""
CUT = (0.3, 0.7)
"""How much of the first parent stays: of n words up to 0.7 n, so that it is less than 0.54 similar to either (Jaccard)."""

Conversation = tuple[tuple[str, str], ...]
"""Roles and texts."""

_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "user"}
_FOLDED = {"function_call": "<tool_call>\n{}\n</tool_call>", "observation": "<tool_response>\n{}\n</tool_response>"}
_MARK = re.compile(r" #[0-9a-f]+$")


@dataclass(frozen=True)
class Made:
    """What was written. `distinct` counts the conversations, `bytes` the file."""

    rows: int
    distinct: int
    bytes: int


@dataclass(frozen=True)
class Corpus:
    """An endless corpus. Every row follows from the seed and its number alone, so no memory grows with the rows.

    Law: rows a and b differ, unless one of them is a repeat (`number % REPEATED == REPEATED - 1`).
    """

    seed: int
    real: tuple[Conversation, ...]
    families: tuple[tuple[Conversation, ...], ...]
    """Conversations that may be joined, each family in the order of lengths."""
    places: tuple[tuple[int, int], ...]
    """Family and place in it of every conversation that is varied."""

    def line(self, number: int) -> bytes:
        """Row `number` as a line of JSON in the OpenAI messages form."""
        before = distinct(number)
        if number % REPEATED == REPEATED - 1:
            before = self._random(f"repeat {number}").randrange(before)
        messages = [{"role": role, "content": text} for role, text in self.conversation(before)]
        return orjson.dumps({"messages": messages}, option=orjson.OPT_APPEND_NEWLINE)

    def conversation(self, number: int) -> Conversation:
        """The distinct conversation `number`."""
        if number < len(self.real):
            return self.real[number]
        draw = self._random(f"variation {number}")
        family, place = self.places[draw.randrange(len(self.places))]
        others = self.families[family]
        low, high = max(0, place - NEAR), min(len(others), place + NEAR + 1)
        other = draw.choice([near for near in range(low, high) if near != place])
        return _joined(others[place], others[other], draw.uniform(*CUT), f" #{number:x}")

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")


def write(file: Path, rows: int, seed: int, data: Path = DATA) -> Made:
    """Write `rows` rows as JSON lines, one at a time.

    Laws: equal arguments give equal bytes; a smaller corpus of the same seed is the beginning of a larger one.
    Raises Unprepared where the real data is absent.
    """
    corpus = read(seed, data)
    with file.open("wb") as out:
        size = sum(out.write(corpus.line(number)) for number in range(rows))
    return Made(rows, distinct(rows), size)


def distinct(rows: int) -> int:
    """How many different conversations stand in the first `rows` rows."""
    return rows - rows // REPEATED


def read(seed: int, data: Path = DATA) -> Corpus:
    """The corpus of a seed, from the folder of real data."""
    try:
        named = {(source, texts) for source, texts in _real(data) if _usable(texts)}
    except FileNotFoundError as error:
        raise Unprepared(f"{error.filename} is missing: the corpus is made from the files of {data}") from None
    families = _families(sorted(named))
    real = sorted({texts for _, texts in named})
    random.Random(f"{seed} order").shuffle(real)
    places = tuple((family, place) for family, all_of_it in enumerate(families) for place in range(len(all_of_it)))
    return Corpus(seed, tuple(real), families, places)


def _families(named: list[tuple[str, Conversation]]) -> tuple[tuple[Conversation, ...], ...]:
    """By source and roles, each from the shortest conversation to the longest."""
    families: defaultdict[tuple[str, ...], list[Conversation]] = defaultdict(list)
    for source, texts in named:
        families[source, *(role for role, _ in texts)].append(texts)
    large = (family for family in families.values() if len(family) > NEAR)
    return tuple(tuple(sorted(family, key=lambda texts: (_length(texts), texts))) for family in large)


def _joined(first: Conversation, second: Conversation, share: float, mark: str) -> Conversation:
    """Message by message. The mark ends the user's first turn, which no real one ends with: it keeps rows apart."""
    texts = [(role, _spliced(text, other, share)) for (role, text), (_, other) in zip(first, second, strict=True)]
    turn = next(place for place, (role, _) in enumerate(texts) if role == "user")
    texts[turn] = ("user", texts[turn][1] + mark)
    return tuple(texts)


def _spliced(first: str, second: str, share: float) -> str:
    spliced = first[: _cut(first, share)] + second[_cut(second, share) :]
    return spliced if spliced.strip() else first


def _cut(text: str, share: float) -> int:
    """Before a word, where there are words: Chinese has no spaces to look for."""
    place = round(len(text) * share)
    space = text.find(" ", place, place + 20)
    return place if space < 0 else space


def _usable(texts: Conversation) -> bool:
    marked = any(_MARK.search(text) for role, text in texts if role == "user")
    return not marked and all(text.strip() for _, text in texts)


def _length(texts: Conversation) -> int:
    return sum(len(text) for _, text in texts)


def _real(data: Path) -> Iterator[tuple[str, Conversation]]:
    """Every conversation and the file that it is from."""
    for name in ("alpaca_en_demo", "alpaca_zh_demo"):
        for row in _rows(data / "formats" / f"{name}.json"):
            asked = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
            yield name, (("user", asked), ("assistant", row["output"]))
    for row in _rows(data / "formats" / "glaive_toolcall_en_demo.json"):
        yield "glaive", _glaive(row)
    for name in ("devset", "testset_w_refs"):
        with (data / "e2e" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield "e2e", (("user", row["mr"]), ("assistant", row["ref"]))


def _glaive(row: dict[str, Any]) -> Conversation:
    """Tools, calls and results as text, which every chat template can render."""
    tools = () if row["tools"] == "[]" else (("system", f"You can call these functions:\n{row['tools']}"),)
    turns = (
        (_ROLES[turn["from"]], _FOLDED.get(turn["from"], "{}").format(turn["value"])) for turn in row["conversations"]
    )
    return (*tools, *turns)


def _rows(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))
