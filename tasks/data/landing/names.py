"""Which names in a landing folder or prefix are landing files, and of which kind."""

from __future__ import annotations

from typing import Literal

from tasks.data.landing.items import Unreadable

Kind = Literal["jsonl", "json", "csv", "tsv", "parquet"]
KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

_BOOKKEEPING = frozenset({"manifest.json", "_success", "_temporary"})


def is_landing_file(name: str) -> bool:
    """Whether the last part of a path or key has a known extension and no part of it is hidden or bookkeeping.

    Half-written files (`day.jsonl.partial`, `day.jsonl.tmp`) have no known extension at their end.
    """
    parts = name.lower().split("/")
    hidden = any(part.startswith(".") or part in _BOOKKEEPING for part in parts)
    return not hidden and any(stem(name).endswith(extension) for extension in KINDS)


def stem(name: str) -> str:
    """The name in lower case without the compression's extension."""
    lower = name.lower()
    return next((lower.removesuffix(extension) for extension in COMPRESSIONS if lower.endswith(extension)), lower)


def kind(name: str) -> Kind:
    """Unreadable: the extension is none of KINDS."""
    for extension, known in KINDS.items():
        if stem(name).endswith(extension):
            return known
    raise Unreadable(f"its name ends with none of {', '.join(KINDS)} (with .gz or .zst after it, if compressed)")


def compression(name: str) -> str | None:
    """What the extension says; the first bytes decide."""
    lower = name.lower()
    return next((known for extension, known in COMPRESSIONS.items() if lower.endswith(extension)), None)
