"""Conversations as token ids, and which of them carry loss: the assistant's words and the token that ends its turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import DataError, ModelError
from tasks.data import loss_mask
from tasks.data.control_tokens import ControlTokens, Piece
from tasks.data.encoder import Coded, Encoder
from tasks.data.loss_mask import Masked
from tasks.data.rows import Message, Row
from tasks.data.template import Rendered
from tasks.data.template_limits import WATCH
from tasks.data.turns import Tools, Turns

Conversation = tuple[Sequence[Message], Sequence[Mapping[str, Any]]]
Arrays = tuple[NDArray[np.int32], NDArray[np.bool_]]

_NOTHING: Arrays = (np.empty(0, np.int32), np.empty(0, np.bool_))


@dataclass(frozen=True, slots=True)
class Encoded:
    """`ids` of the whole conversation; `loss[i]` says whether predicting `ids[i]` counts. Equal lengths."""

    ids: list[int]
    loss: list[bool]


@dataclass(frozen=True, eq=False)
class Flat:
    """Many rows, one after another: row r has `ids[stops[r-1]:stops[r]]` and as much of `loss`.

    A row that is refused has no tokens; `refused` says why, by the row's number.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    stops: NDArray[np.int64]
    refused: Mapping[int, DataError]


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """A rendered conversation; `pieces` are its prompt, the rest and the whole, if it spells control tokens."""

    rendered: Rendered
    pieces: tuple[list[Piece], list[Piece], list[Piece]] | None

    def cut(self) -> tuple[list[Piece], list[Piece], list[Piece]]:
        text, opening = self.rendered.text, self.rendered.opening
        return self.pieces or ([(text[:opening], True)], [(text[opening:], True)], [(text, True)])


class ChatTokenizer:
    """The base's template and tokenizer, used alike for training and for generation.

    `tools`: whether tools are written by the template or by `tasks.data.tool_text`. `ends`: ids that end a turn;
    `controls`: ids of all control tokens. `engine`: what makes the ids, see `Encoder`.
    """

    def __init__(self, folder: Path) -> None:
        self._turns = Turns(folder)
        self._encoder = Encoder(folder)
        self._controls = ControlTokens(list(self._encoder.controls.values()), self._encoder.normal)
        self.tools: Tools = self._turns.tools
        self.engine = self._encoder.engine
        self.ends = _end_tokens(folder, self._encoder)
        self.controls = frozenset(self._encoder.controls)
        self._is_end = np.zeros(self._encoder.size, dtype=np.bool_)
        self._is_end[list(self.ends)] = True
        cue = self._turns.cue
        # After a control token, ids don't depend on what stands before it.
        self._cue = np.array(self._encoder.ids(cue), np.int32) if cue and self._controls.begins(cue) else None

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Encoded:
        """Law: every assistant turn has an end-of-turn token with loss, and the ids begin with those of `prompt`.

        DataError: the template is not prefix-stable, writes no end-of-turn token after an answer, or refuses the
        conversation; a message holds an image. Guessing a mask would train on the wrong words.
        """
        (outcome,) = self._encode([(messages, tools)])
        if isinstance(outcome, DataError):
            raise outcome
        return _listed(outcome)

    def encode_many(self, rows: Sequence[Row]) -> list[Encoded | DataError]:
        """What `encode` gives or raises for each row, in the rows' order, on all cores.

        Memory grows with the number of rows: about 1,000 at a time is best.
        """
        outcomes = self._encode([(row.messages, row.tools) for row in rows])
        return [outcome if isinstance(outcome, DataError) else _listed(outcome) for outcome in outcomes]

    def encode_flat(self, rows: Sequence[Row]) -> Flat:
        """The same without a Python object a token: a third faster, and what Arrow takes as it is."""
        outcomes = self._encode([(row.messages, row.tools) for row in rows])
        refused = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, DataError)}
        each = [_NOTHING if isinstance(outcome, DataError) else outcome for outcome in outcomes]
        ids, loss = (np.concatenate(arrays) for arrays in zip(_NOTHING, *each, strict=True))
        return Flat(ids, loss, np.cumsum([len(ids) for ids, _ in each], dtype=np.int64), refused)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids up to where the assistant's last answer begins: what the model is asked with."""
        turns, written = self._turns.written(messages[:-1], tools)
        if not self._controls.are_spelled(turns, written):
            return self._encoder.ids(self._turns.prompt(turns, written))
        hidden = self._turns.prompt(self._controls.hide(turns), self._controls.hide(written))
        return self._encoder.one(self._controls.pieces(hidden)).ids.tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the token that ends the turn."""
        stop = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return self._encoder.decode(ids[:stop], controls=False)

    def spell(self, ids: Sequence[int]) -> str:
        """The ids as text, control tokens spelled out: for people and tests."""
        return self._encoder.decode(ids, controls=True)

    def _encode(self, rows: Sequence[Conversation]) -> list[Arrays | DataError]:
        outcomes: list[DataError | _Text] = []
        with WATCH:
            for messages, tools in rows:
                try:
                    outcomes.append(self._text(messages, tools))
                except DataError as error:
                    outcomes.append(error)
        together = [text for text in outcomes if isinstance(text, _Text) and text.pieces is None]
        done = dict(zip(map(id, together), self._together(together), strict=True))
        return [
            outcome if not isinstance(outcome, _Text) else done.get(id(outcome)) or self._alone(outcome)
            for outcome in outcomes
        ]

    def _text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> _Text:
        turns, written = self._turns.written(messages, tools)
        if not self._controls.are_spelled(turns, written):
            return _Text(self._turns.conversation(turns, written), None)
        hidden = self._turns.conversation(self._controls.hide(turns), self._controls.hide(written))
        cut = [self._controls.pieces(part) for part in (hidden.text[: hidden.opening], hidden.text[hidden.opening :])]
        return _Text(self._controls.show(hidden), (cut[0], cut[1], self._controls.pieces(hidden.text)))

    def _together(self, texts: Sequence[_Text]) -> list[Arrays | DataError | None]:
        """The texts in one batch; None for each that has to be looked at alone."""
        if not texts:
            return []
        rendered = [text.rendered for text in texts]
        coded = self._encoder.many([text.text for text in rendered])
        masked = loss_mask.mark(coded, rendered, self._is_end)
        fine = coded.exact & self._open_alike(coded, rendered)
        return [self._outcome(coded, masked, number) if fine[number] else None for number in range(len(texts))]

    def _alone(self, text: _Text) -> Arrays | DataError:
        """One text; cut where its last answer begins, should a token straddle that place."""
        before, after, whole = text.cut()
        coded, prompt = self._encoder.one(whole), self._encoder.one(before)
        if not np.array_equal(coded.ids[: len(prompt.ids)], prompt.ids):
            coded = self._encoder.one([*before, *after])
        return self._outcome(coded, loss_mask.mark(coded, [text.rendered], self._is_end), 0)

    def _outcome(self, coded: Coded, masked: Masked, number: int) -> Arrays | DataError:
        if number in masked.endless:
            return DataError(
                "the chat template writes no end-of-turn token after an answer, so the model would never learn to "
                f"stop (expected one of the ids {sorted(self.ends)}): mend chat_template.jinja or eos_token"
            )
        own = slice(coded.stops[number - 1] if number else 0, coded.stops[number])
        return coded.ids[own], masked.loss[own]

    def _open_alike(self, coded: Coded, rendered: Sequence[Rendered]) -> NDArray[np.bool_]:
        """Which texts' ids begin with the ids of their prompts."""
        alike = np.zeros(len(rendered), dtype=np.bool_)
        known = np.array(
            [self._cue is not None and r.text.endswith(self._turns.cue or "", 0, r.opening) for r in rendered]
        )
        begins = np.concatenate(([0], coded.stops[:-1]))
        if self._cue is not None and known.any():
            places = [coded.place(n, r.text, r.opening) for n, r in enumerate(rendered)]
            upto = np.searchsorted(coded.firsts, np.array(places, dtype=np.int64))
            window = np.maximum(upto - len(self._cue), 0)[:, None] + np.arange(len(self._cue))
            same = (coded.ids[np.minimum(window, len(coded.ids) - 1)] == self._cue).all(axis=1)
            alike = known & same & (upto - len(self._cue) >= begins)
        others = np.flatnonzero(~known).tolist()
        if others:
            prompts = self._encoder.many([rendered[n].text[: rendered[n].opening] for n in others])
            ids = np.split(prompts.ids, prompts.stops[:-1])
            for n, prompt in zip(others, ids, strict=True):
                alike[n] = np.array_equal(coded.ids[begins[n] : begins[n] + len(prompt)], prompt)
        return alike


def _listed(arrays: Arrays) -> Encoded:
    return Encoded(arrays[0].tolist(), arrays[1].tolist())


def _end_tokens(folder: Path, encoder: Encoder) -> frozenset[int]:
    """Ids that end a turn: the tokenizer's `eos_token` and the generation config's `eos_token_id`."""
    config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_bytes())
    named: Any = config.get("eos_token")
    ends: set[int | None] = {encoder.id(named["content"] if isinstance(named, dict) else named)} if named else set()
    file = folder / "generation_config.json"
    if file.is_file():
        value: Any = json.loads(file.read_bytes()).get("eos_token_id")
        ends |= set(value) if isinstance(value, list) else {value}
    known = frozenset(token for token in ends if token is not None and token < encoder.size)
    if not known:
        raise ModelError(f"{folder} names no end-of-text token: set eos_token in tokenizer_config.json")
    return known
