"""Conversations as token ids, and which of them carry loss: the assistant's words and the token that ends its turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from tasks.core.errors import DataError, ModelError
from tasks.data.rows import Message
from tasks.data.template import ChatTemplate


@dataclass(frozen=True)
class Encoded:
    """`ids` of the whole conversation; `loss[i]` says whether predicting `ids[i]` counts. Equal lengths."""

    ids: list[int]
    loss: list[bool]


class ChatTokenizer:
    """The base's template and tokenizer, used alike for training and for generation."""

    def __init__(self, folder: Path) -> None:
        self._template = ChatTemplate.of_model(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = sorted(
            (token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special),
            key=len, reverse=True,
        )  # fmt: skip
        self.ends = _end_tokens(folder, self._tokenizer)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Law: the ids carry as many end-of-turn tokens with loss as there are assistant turns.

        DataError: the template is not prefix-stable or writes no end-of-turn token after an answer;
        guessing a mask would train on the wrong words.
        """
        text, spans = self._render(messages)
        encoding = self._encode(text, messages)
        loss = [False] * len(encoding.ids)
        for start, end in spans:
            self._mark(encoding, start, end, loss)
        return Encoded(list(encoding.ids), loss)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the assistant's last answer begins."""
        before = messages[:-1]
        return list(self._encode(self._template.render(_plain(before), prompt=True), before).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the token that ends the turn."""
        stop = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return self._tokenizer.decode(list(ids[:stop]), skip_special_tokens=True)

    def spell(self, ids: Sequence[int]) -> str:
        """The ids as text, control tokens spelled out: for people and tests."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _render(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character span of every assistant turn, found by rendering prefixes."""
        text, spans = self._template.render(_plain(messages)), list[tuple[int, int]]()
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opening = self._template.render(_plain(messages[:place]), prompt=True)
            so_far = self._template.render(_plain(messages[: place + 1]))
            if not (so_far.startswith(opening) and text.startswith(so_far)):
                raise DataError(
                    "the chat template writes earlier turns differently once later ones follow, so which words are "
                    "the assistant's can't be told: give the model a prefix-stable chat_template.jinja"
                )
            spans.append((len(opening), len(so_far)))
        return text, spans

    def _encode(self, text: str, messages: Sequence[Message]) -> Encoding:
        """Ids of rendered text, as every server makes them, unless a message spells a control token: then that
        message is encoded as plain text, so that a user can't open an assistant's turn."""
        if not any(token in message.content for message in messages for token in self._special):
            return self._tokenizer.encode(text, add_special_tokens=False)
        return self._encode_apart(text, messages)

    def _encode_apart(self, text: str, messages: Sequence[Message]) -> Encoding:
        pieces, place = list[Encoding](), 0
        for message in messages:
            start = text.find(message.content, place)
            if start < 0:
                raise DataError(
                    "the chat template alters a message that spells a control token; remove it from the row"
                )
            pieces += [self._plain_or_special(text[place:start], True), self._plain_or_special(message.content, False)]
            place = start + len(message.content)
        pieces.append(self._plain_or_special(text[place:], True))
        return Encoding.merge(pieces, growing_offsets=True)

    def _plain_or_special(self, text: str, special: bool) -> Encoding:
        self._tokenizer.encode_special_tokens = not special
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = False

    def _mark(self, encoding: Encoding, start: int, end: int, loss: list[bool]) -> None:
        """Give loss to one turn's tokens, from its first to the one that ends it."""
        inside = [
            i for i, (first, last) in enumerate(encoding.offsets) if first >= start and last <= end and last > first
        ]
        ending = [i for i in inside if encoding.ids[i] in self.ends]
        if not ending:
            raise DataError(
                "the chat template writes no end-of-turn token after an answer, so the model would never learn to "
                f"stop (expected one of the ids {sorted(self.ends)}): mend chat_template.jinja or eos_token"
            )
        for i in inside:
            loss[i] = i <= ending[-1]


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _end_tokens(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end a turn: the tokenizer's `eos_token` and the generation config's `eos_token_id`."""
    config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    named: Any = config.get("eos_token")
    ends: set[int | None] = (
        {tokenizer.token_to_id(named["content"] if isinstance(named, dict) else named)} if named else set()
    )
    file = folder / "generation_config.json"
    if file.is_file():
        value: Any = json.loads(file.read_bytes()).get("eos_token_id")
        ends |= set(value) if isinstance(value, list) else {value}
    known = frozenset(token for token in ends if token is not None)
    if not known:
        raise ModelError(f"{folder} names no end-of-text token: set eos_token in tokenizer_config.json")
    return known
