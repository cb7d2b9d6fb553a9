"""What the model will see and which of it it will learn, token by token: for a terminal, and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from tasks.core.errors import DataError
from tasks.data.rows import Row
from tasks.data.tokens import ChatTokenizer, Encoded

_LEARNED, _SEEN, _CONTROL, _OFF = "\x1b[1;32m", "\x1b[2m", "\x1b[35m", "\x1b[0m"
_OPEN, _CLOSE, _BETWEEN = "⟦", "⟧", "·"
_STEERING = (*range(32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_UNSEEN = {number: f"\\u{number:04x}" for number in _STEERING} | {9: "→", 10: "↵\n", 13: "␍"}


def preview(rows: Sequence[Row], tokenizer: ChatTokenizer, *, colour: bool) -> str:
    """The conversations as text. With colour, what carries loss is bright, the rest dim and control tokens purple;
    without, what carries loss stands in ⟦ ⟧, its tokens parted by `·`.

    Characters that would steer the terminal are spelled out. A row that can't be encoded says why.
    """
    shown = (
        _refusal(row, encoded) if isinstance(encoded, DataError) else _conversation(row, encoded, tokenizer, colour)
        for row, encoded in zip(rows, tokenizer.encode_many(rows), strict=True)
    )
    return "\n".join(shown)


def as_json(rows: Sequence[Row], tokenizer: ChatTokenizer) -> list[dict[str, Any]]:
    """One value a row: `id`, `tokens` (each `id`, `text`, `loss`, `control`) and counts; or `id` and `refused`.

    A character that several tokens share is the text of the last of them. Law: the texts joined are
    `tokenizer.spell(ids)`.
    """
    return [
        {"id": row.id, "refused": str(encoded)} if isinstance(encoded, DataError) else _as_json(row, encoded, tokenizer)
        for row, encoded in zip(rows, tokenizer.encode_many(rows), strict=True)
    ]


def _as_json(row: Row, encoded: Encoded, tokenizer: ChatTokenizer) -> dict[str, Any]:
    tokens = [
        {"id": number, "text": text, "loss": loss, "control": number in tokenizer.controls}
        for number, text, loss in zip(encoded.ids, _texts(encoded.ids, tokenizer), encoded.loss, strict=True)
    ]
    return {"id": row.id, "tokens": tokens, "count": len(encoded.ids), "with_loss": sum(encoded.loss)}


def _texts(ids: Sequence[int], tokenizer: ChatTokenizer) -> Iterator[str]:
    """Each token's own text. A token may hold a part of a character alone: it waits for the rest."""
    start = 0
    for place in range(len(ids)):
        text = tokenizer.spell(ids[start : place + 1])
        whole = not text.endswith("\ufffd") or place + 1 == len(ids) or place - start >= _PARTS
        yield text if whole else ""
        start = place + 1 if whole else start


_PARTS = 3  # a character has at most four bytes, so at most three tokens wait


def _refusal(row: Row, why: DataError) -> str:
    return f"row {row.id} is refused: {why}\n"


def _conversation(row: Row, encoded: Encoded, tokenizer: ChatTokenizer, colour: bool) -> str:
    tokens = list(zip(encoded.ids, _texts(encoded.ids, tokenizer), encoded.loss, strict=True))
    runs = groupby(tokens, key=lambda token: (token[2], token[0] in tokenizer.controls))
    paint = _painted if colour else _bracketed
    body = "".join(paint([text for _, text, _ in run], *kind) for kind, run in runs).rstrip("\n")
    count, learned = len(encoded.ids), sum(encoded.loss)
    title, facts = f"row {row.id}".translate(_UNSEEN), f"{count} tokens, {learned} with loss ({learned / count:.0%})"
    return f"{title}\n{body}\n{facts}\n"


def _painted(texts: Sequence[str], loss: bool, control: bool) -> str:
    """Colour is set anew on each line, so that a pager shows it."""
    start = (_LEARNED if loss else _SEEN) + (_CONTROL if control else "")
    return "".join(f"{start}{line}{_OFF}{end}" for line, end in _lines("".join(texts)))


def _bracketed(texts: Sequence[str], loss: bool, control: bool) -> str:
    if not loss:
        return "".join(line + end for line, end in _lines("".join(texts)))
    return "".join(f"{_OPEN}{line}{_CLOSE}{end}" for line, end in _lines(_BETWEEN.join(filter(None, texts))))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.translate(_UNSEEN).splitlines(keepends=True):
        bare = line.removesuffix("\n")
        yield bare, line[len(bare) :]
