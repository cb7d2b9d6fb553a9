"""Where an answer leaves its reference, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """A stretch that both have, that only the reference has (`missing`) or only the answer (`extra`)."""

    kind: Literal["same", "missing", "extra"]
    text: str


def segments(reference: str, answer: str) -> tuple[Segment, ...]:
    """Laws: `same` and `missing` joined give the reference; `same` and `extra` joined give the answer."""
    return tuple(segment for segment in _segments(_words(reference), _words(answer)) if segment.text)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)


def _segments(left: list[str], right: list[str]) -> Iterator[Segment]:
    for tag, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            yield Segment("same", "".join(left[i:j]))
        else:
            yield Segment("missing", "".join(left[i:j]))
            yield Segment("extra", "".join(right[k:m]))


def alike(found: tuple[Segment, ...]) -> bool:
    """Whether half of the text is shared; below that, marks would cover everything and show nothing."""
    same = sum(len(segment.text) for segment in found if segment.kind == "same")
    return 2 * same >= max(
        sum(len(segment.text) for segment in found if segment.kind in ("same", kind)) for kind in ("missing", "extra")
    )
