"""Text to token ids, many texts at once, with the place in its text where each token stands.

Byte-level BPE (GPT-2 and what came after: Llama 3, Qwen, SmolLM) spells a text byte by byte, so a token's place is the
sum of the lengths before it, and the slow bookkeeping of offsets can be left out. This is used only where the sum is
the text's length; other tokenizers and other rows take the library's offsets.

`fastokens`, where it is installed, does the same work in a tenth of the time. It is used only after it has given
equal ids for a set of awkward texts, and is compared again on some texts of each batch.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from tasks.core.errors import ModelError

try:
    import fastokens  # pyright: ignore[reportMissingImports]
except ImportError:  # an optional speed-up
    fastokens = None

_AWKWARD = (
    "", " ", "  \n\n \t\r\n x", "don't I'LL we've THEY'RE 'S", "1234567 3.14 ½ ² ٣٤", "naïve café Ünïcödé ß ẞ İ ı",
    "漢字かな交じり文。한국어", "مرحبا नमस्ते ไทย",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u2028\xa0\u3000x", "\x00\x1f\x7f\ufffd\U0010ffff",
    "a" * 300, "=" * 70 + "\n" + " " * 70 + "end", "def f(x):\n\treturn {'a': [1, 2]}  # done\n", "https://a.b/c?d=e&f=%20",
    "<|im_start|>user\n<|im_end|", "<<|im_end|>>", "\n\n\n", "x \n y", "'", "''s", "A\u030a\u0327", "ﬁ ① Ａ",
)  # fmt: skip
_SAMPLED = 251  # one text in so many is compared with the reference
_FEW = 8  # texts for which the faster engine is not worth its check


@dataclass(frozen=True)
class Coded:
    """Ids of several texts, one after another; text t has `ids[stops[t-1]:stops[t]]`.

    Token i stands at `[firsts[i], lasts[i])` on a line on which text t begins at `bases[t]`, in bytes or in
    characters. `exact[t]`: the places of text t are known; if not, ask `Encoder.one`.
    """

    ids: NDArray[np.int32]
    stops: NDArray[np.int64]
    firsts: NDArray[np.int64]
    lasts: NDArray[np.int64]
    bases: NDArray[np.int64]
    exact: NDArray[np.bool_]
    in_bytes: bool

    def place(self, number: int, text: str, character: int) -> int:
        """Where a character of text `number` stands on the line."""
        plain = not self.in_bytes or text.isascii()
        return int(self.bases[number]) + (character if plain else len(text[:character].encode()))


class Encoder:
    """`engine` names what makes the ids, `fastokens` or `tokenizers`; their ids are equal. `size` is above every id."""

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        self._reference = Tokenizer.from_file(str(file))
        self._reference.no_truncation()
        self._reference.no_padding()
        facts: dict[str, Any] = json.loads(file.read_bytes())
        self.size = max(self._reference.get_vocab(with_added_tokens=True).values()) + 1
        self._lengths = _byte_lengths(facts, self._reference, self.size)
        self._composes = facts.get("normalizer") is not None
        self._fast = _fast(file, self._reference) if self._lengths is not None else None
        self.engine = "tokenizers" if self._fast is None else "fastokens"
        decoder = self._reference.get_added_tokens_decoder()
        self.controls = {number: token for number, token in decoder.items() if token.special}

    def many(self, texts: Sequence[str]) -> Coded:
        """Ids of the texts, control tokens read as such."""
        if self._lengths is None:
            return _by_offsets(self._reference.encode_batch(list(texts), add_special_tokens=False), texts)
        ids, stops = self._flat(list(texts))
        return self._by_lengths(ids, stops, texts)

    def one(self, pieces: Sequence[tuple[str, bool]]) -> Coded:
        """Ids of one text in pieces, exact in any case; only in those marked True are control tokens read as such."""
        whole = Encoding.merge([self._piece(text, control) for text, control in pieces if text], growing_offsets=True)
        text = "".join(text for text, _ in pieces)
        if self._lengths is not None:
            coded = self._by_lengths(np.array(whole.ids, dtype=np.int32), np.array([len(whole.ids)]), [text])
            if coded.exact[0]:
                return coded
        return _by_offsets([whole], [text])

    def ids(self, text: str) -> list[int]:
        """Ids of a text, control tokens read as such."""
        return list(self._reference.encode(text, add_special_tokens=False).ids)

    def id(self, token: str) -> int | None:
        return self._reference.token_to_id(token)

    def normal(self, text: str) -> str:
        """The text as the vocabulary sees it."""
        normalizer = self._reference.normalizer
        return normalizer.normalize_str(text) if normalizer else text

    def decode(self, ids: Sequence[int], *, controls: bool) -> str:
        """The text of the ids, with or without control tokens."""
        return self._reference.decode(list(ids), skip_special_tokens=not controls)

    def _piece(self, text: str, control: bool) -> Encoding:
        self._reference.encode_special_tokens = not control
        try:
            return self._reference.encode(text, add_special_tokens=False)
        finally:
            self._reference.encode_special_tokens = False

    def _flat(self, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if self._fast is not None and len(texts) >= _FEW:
            try:
                raw, places = self._fast.encode_batch_flat(texts, add_special_tokens=False)
                return self._checked(raw, places, texts)
            except ValueError:  # a byte that is not in the vocabulary; the reference leaves it out
                pass
        return _joined([e.ids for e in self._reference.encode_batch_fast(texts, add_special_tokens=False)])

    def _checked(self, raw: bytes, places: bytes, texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """What the faster engine gave, compared with the reference on a sample. ModelError: they differ."""
        ids, stops = np.frombuffer(raw, dtype=np.int32), np.frombuffer(places, dtype=np.int64)[1:]
        for place in range(0, len(texts), _SAMPLED):
            if ids[stops[place - 1] if place else 0 : stops[place]].tolist() != self.ids(texts[place]):
                raise ModelError(
                    f"fastokens and tokenizers give different ids for {texts[place][:80]!r}: uninstall fastokens"
                )
        return ids, stops

    def _by_lengths(self, ids: NDArray[np.int32], stops: NDArray[np.int64], texts: Sequence[str]) -> Coded:
        assert self._lengths is not None
        lengths = self._lengths[ids]
        lasts = np.cumsum(lengths)
        ends = np.concatenate(([0], lasts))[stops]
        bases = np.concatenate(([0], ends[:-1]))
        exact = ends - bases == np.fromiter(map(_size, texts), dtype=np.int64, count=len(texts))
        if self._composes:
            exact &= np.fromiter((unicodedata.is_normalized("NFC", text) for text in texts), np.bool_, len(texts))
        return Coded(ids, stops, lasts - lengths, lasts, bases, exact, True)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _joined(each: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    stops = np.cumsum(np.fromiter(map(len, each), dtype=np.int64, count=len(each)))
    return np.fromiter(itertools.chain.from_iterable(each), dtype=np.int32, count=int(stops[-1])), stops


def _by_offsets(encodings: Sequence[Encoding], texts: Sequence[str]) -> Coded:
    """Places in characters. A token without text stands where the one before it ends, so that the line never turns."""
    ids, stops = _joined([encoding.ids for encoding in encodings])
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    bases = np.concatenate(([0], ends[:-1]))
    spans = [
        np.array(e.offsets, dtype=np.int64).reshape(-1, 2) + base for e, base in zip(encodings, bases, strict=True)
    ]
    line = np.maximum.accumulate(np.concatenate(spans), axis=0)
    return Coded(ids, stops, line[:, 0], line[:, 1], bases, np.ones(len(texts), np.bool_), False)


def _byte_lengths(facts: Mapping[str, Any], tokenizer: Tokenizer, size: int) -> NDArray[np.int64] | None:
    """Bytes that each id spells; None unless the tokenizer is byte-level BPE whose ids spell the text unaltered."""
    normalizer, model = facts.get("normalizer"), facts["model"]
    before = facts.get("pre_tokenizer") or {}
    steps = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    if normalizer not in (None, {"type": "NFC"}) or model.get("type") != "BPE" or len(byte_level) != 1:
        return None
    if byte_level[0].get("add_prefix_space") or model.get("byte_fallback"):
        return None
    lengths = np.zeros(size, dtype=np.int64)
    for token, number in tokenizer.get_vocab(with_added_tokens=False).items():
        lengths[number] = len(token)  # the byte-level alphabet writes each byte as one character
    for number, added in tokenizer.get_added_tokens_decoder().items():
        lengths[number] = len(added.content.encode())
    return lengths


def _fast(file: Path, reference: Tokenizer) -> Any:
    """A `fastokens.Tokenizer`, if the library is there and agrees; else None."""
    if fastokens is None:
        return None
    try:
        fast = fastokens.Tokenizer.from_file(str(file))
        theirs = [encoding.ids for encoding in fast.encode_batch(list(_AWKWARD), add_special_tokens=False)]
    except (ValueError, RuntimeError, NotImplementedError):  # a tokenizer that it does not know
        return None
    ours = [encoding.ids for encoding in reference.encode_batch(list(_AWKWARD), add_special_tokens=False)]
    return fast if theirs == ours else None
