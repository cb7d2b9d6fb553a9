"""Rows that spell control tokens: `<|im_end|>` in a message is text, and must not end a turn.

Such a row is rendered with each spelled token hidden behind a number that no row can contain. What is then still a
control token in the text is the template's own; everything else is encoded as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tokenizers import AddedToken

from tasks.core.errors import DataError
from tasks.data.sandbox import FORGED
from tasks.data.template import Rendered

Piece = tuple[str, bool]

_PLAIN = 2  # keys of a turn that has but its role and its words


class ControlTokens:
    """The tokenizer's special tokens, as texts. `normal` is what the tokenizer does to text before it looks for
    those that are marked `normalized`."""

    def __init__(self, controls: Sequence[AddedToken], normal: Callable[[str], str]) -> None:
        self._spellings = sorted((token.content for token in controls), key=len, reverse=True)
        self._firsts = tuple({spelling[0] for spelling in self._spellings})  # few: a quick first look
        self._any = re.compile("|".join(map(re.escape, self._spellings)) or "(?!)")
        own = sorted(controls, key=lambda token: len(token.content), reverse=True)
        self._own = re.compile("|".join(map(_pattern, own)) or "(?!)")
        self._hidden = re.compile(FORGED + r"(\d{4})")
        self._normal = normal if any(token.normalized for token in controls) else None

    def begins(self, text: str) -> bool:
        return text.startswith(tuple(self._spellings)) if self._spellings else False

    def are_spelled(self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a string anywhere spells one. DataError: only to a tokenizer that normalises."""
        for turn in turns:
            if self._spells(turn["content"]) or (len(turn) > _PLAIN and any(map(self._spells, _strings(turn)))):
                return True
        return bool(tools) and any(map(self._spells, _strings(tools)))

    def hide(self, value: Any) -> Any:
        """The value with every spelled token hidden."""
        if isinstance(value, str):
            return self._any.sub(lambda found: f"{FORGED}{self._spellings.index(found[0]):04}", value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in cast("Sequence[Any]", value)]
        return value

    def show(self, rendered: Rendered) -> Rendered:
        """The rendered text with its hidden tokens spelled out, and its spans moved accordingly."""
        moves = [
            (found.end(), len(self._spelling(found)) - len(found[0])) for found in self._hidden.finditer(rendered.text)
        ]

        def moved(place: int) -> int:
            return place + sum(by for end, by in moves if end <= place)

        answers = [(moved(start), moved(end)) for start, end in rendered.answers]
        return replace(rendered, text=self._shown(rendered.text), answers=answers, opening=moved(rendered.opening))

    def pieces(self, text: str) -> list[Piece]:
        """A text with hidden tokens in pieces, hidden tokens spelled out; True: the template's own control token."""
        found, place = list[Piece](), 0
        for control in self._own.finditer(text):
            found += [(self._shown(text[place : control.start()]), False), (control[0], True)]
            place = control.end()
        return [piece for piece in (*found, (self._shown(text[place:]), False)) if piece[0]]

    def _shown(self, text: str) -> str:
        shown = self._hidden.sub(self._spelling, text)
        if FORGED in shown:
            raise DataError("the chat template alters a message that spells a control token: take it out of the row")
        return shown

    def _spelling(self, found: re.Match[str]) -> str:
        return self._spellings[int(found[1])]

    def _spells(self, text: str) -> bool:
        if self._normal:
            return self._spells_normalised(text, self._normal(text))
        return any(map(text.__contains__, self._firsts)) and self._any.search(text) is not None

    def _spells_normalised(self, text: str, normal: str) -> bool:
        if self._any.search(text):
            return True
        if self._any.search(normal):
            raise DataError(
                "a message spells a control token in look-alike characters, which this tokenizer reads as the token "
                "itself: take it out of the row"
            )
        return False


def _pattern(token: AddedToken) -> str:
    """A token takes in the space beside it if it is declared so."""
    left, right = r"\s*" if token.lstrip else "", r"\s*" if token.rstrip else ""
    return f"{left}{re.escape(token.content)}{right}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _strings(item)
