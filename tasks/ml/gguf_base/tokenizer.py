"""The tokenizer of a GGUF file as Hugging Face's files: byte-level BPE, which GPT-2 and what came after it use.

What a file can't hold (how text is split before its merges apply) stands there as a name, `tokenizer.ggml.pre`, whose
meaning llama.cpp defines (llama-vocab.cpp). Names that are not in `SPLITS` go by way of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tasks.core import events
from tasks.ml.gguf_base.facts import Facts

_CONTROL, _USER_DEFINED = 3, 4
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_UNBOUNDED = int(1e30)  # as transformers writes a length that nothing limits

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2, _DIGITS, _LLAMA3, _QWEN2 = "gpt-2", "digits", rf"{_LETTERS}|\p{{N}}{{1,3}}{_REST}", rf"{_LETTERS}|\p{{N}}{_REST}"

SPLITS = {
    name: split
    for split, names in (
        (_GPT2, ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling")),
        (_DIGITS, ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")),
        (_LLAMA3, ("llama3", "llama-v3", "llama-bpe", "falcon3")),
        (_QWEN2, ("qwen2", "deepseek-r1-qwen")),
    )
    for name in names
}
"""How text is split, by the file's name for it."""


def missing(facts: Facts) -> str | None:
    """Why the tokenizer can't be read here; None if it can."""
    kind = facts.text("tokenizer.ggml.model")
    if kind != "gpt2":
        return f"its tokenizer is {kind!r}, not byte-level BPE"
    named = facts.text("tokenizer.ggml.pre") if facts.has("tokenizer.ggml.pre") else "gpt-2"
    return None if named in SPLITS else f"its text is split as {named!r}"


def write(facts: Facts, into: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template. ModelError: the vocabulary contradicts itself."""
    tokens = facts.texts("tokenizer.ggml.tokens")
    roles = {
        f"{role}_token": tokens[facts.whole(f"tokenizer.ggml.{key}_token_id", least=0, most=len(tokens) - 1)]
        for role, key in _ROLES.items()
        if facts.has(f"tokenizer.ggml.{key}_token_id")
    }
    _tokenizer(facts, tokens, roles).save(str(into / "tokenizer.json"))
    config = {"backend": "tokenizers", "model_max_length": _UNBOUNDED, "tokenizer_class": "TokenizersBackend"}
    text = json.dumps(config | roles, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (into / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if facts.has("tokenizer.chat_template"):
        (into / "chat_template.jinja").write_text(facts.text("tokenizer.chat_template"), encoding="utf-8")


def _tokenizer(facts: Facts, tokens: tuple[str, ...], roles: Mapping[str, str]) -> Tokenizer:
    kinds, split = _kinds(facts, tokens), _split(facts)
    vocabulary = _vocabulary(tokens, kinds)
    # Merges are no way to some of Llama 3's tokens; a word that is a token stays one.
    bpe = models.BPE(
        vocab=vocabulary, merges=_merges(facts, vocabulary), continuing_subword_prefix="", end_of_word_suffix="",
        fuse_unk=False, ignore_merges=split == _LLAMA3,
    )  # fmt: skip
    tokenizer: Any = Tokenizer(bpe)
    if split == _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _before(split)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in kinds.items() if kind == _CONTROL]
    special += [token for token in roles.values() if token not in special]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    own = [token for token, kind in kinds.items() if kind == _USER_DEFINED and token not in special]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in own])
    tokenizer.post_processor = _after(facts, tokenizer, roles)
    return tokenizer


def _kinds(facts: Facts, tokens: tuple[str, ...]) -> dict[str, int]:
    """The tokens that are found in a text before it is split, and of which kind."""
    if not facts.has("tokenizer.ggml.token_type"):
        return {}
    types = facts.wholes("tokenizer.ggml.token_type")
    if len(types) != len(tokens):
        facts.refuse(f"it has {len(tokens)} tokens and {len(types)} token types")
    return {token: kind for token, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)}


def _split(facts: Facts) -> str:
    if facts.has("tokenizer.ggml.pre"):
        return SPLITS[facts.text("tokenizer.ggml.pre")]
    events.warning(f"{facts.gguf.file.name} does not say how its text is split before tokenising: as GPT-2's is")
    return _GPT2


def _vocabulary(tokens: tuple[str, ...], kept: Container[str]) -> dict[str, int]:
    """Every token as the byte-level alphabet spells it; some files hold plain text among the spelled tokens."""
    spelling = _alphabet()
    letters = frozenset(spelling.values())
    return {
        token if token in kept or letters.issuperset(token) else "".join(spelling[byte] for byte in token.encode()): at
        for at, token in enumerate(tokens)
    }


def _alphabet() -> dict[int, str]:
    """The character that spells each byte (GPT-2's encoder): itself where it can be seen, else one above 255."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(seen)]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def _merges(facts: Facts, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    merges = list[tuple[str, str]]()
    for merge in facts.texts("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            facts.refuse(f"its merge {merge[:80]!r} is not of tokens")
        merges.append((left, right))
    return merges


def _before(split: str) -> Any:
    if split == _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split == _DIGITS:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _after(facts: Facts, tokenizer: Any, roles: Mapping[str, str]) -> Any:
    """What the file wants before and after a text that is tokenised with special tokens."""

    def wanted(role: str) -> str | None:
        key = f"tokenizer.ggml.add_{role}_token"
        token = roles.get(f"{role}_token") if facts.has(key) and facts.flag(key) else None
        if token and (":" in token or token.startswith("$")):  # the library's own signs in a template
            facts.refuse(f"its {role} token {token[:80]!r} can't be put around a text")
        return token

    begin, end = wanted("bos"), wanted("eos")
    one, two = ([f"{part}:{place}" for part in (begin, ("$A", "$B")[place], end) if part] for place in (0, 1))
    used = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((begin, end)) if token]
    return processors.TemplateProcessing(single=one, pair=one + two, special_tokens=used)
