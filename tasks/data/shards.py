"""The corpus on disk: canonical rows as lines of JSON in zstd shards, named by the data version that brought them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from tasks.core.errors import IntegrityError
from tasks.data.rows import Row

SUFFIX = ".jsonl.zst"
ROWS = 100_000
"""At the most in one shard: a few large files are quicker to keep, to send and to check than many small ones."""

_NAME = re.compile(r"v(\d{5,})-(\d{2,})" + re.escape(SUFFIX))


def files(folder: Path) -> list[Path]:
    """Every shard of a corpus, in the order in which they came."""
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: (version(path), path.name))


def version(shard: Path) -> int:
    """The number of the data version that brought the shard."""
    match = _NAME.fullmatch(shard.name)
    if match is None:
        raise IntegrityError(f"{shard} is not a shard's name (v00001-00{SUFFIX}): move it out of the corpus")
    return int(match[1])


def write(shard: Path, lines: Iterable[bytes]) -> None:
    """One shard of these rows. Law: equal rows give equal bytes."""
    with pa.CompressedOutputStream(pa.OSFile(str(shard), "wb"), "zstd") as stream:
        for line in lines:
            stream.write(line)


class Writer:
    """Appends rows to a corpus folder as the shards of one version. Law: equal rows give equal bytes."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._rows = 0
        self._stream: Any = None
        self.names: list[str] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, line: bytes) -> str:
        """Append one row, given as its line; the name of the shard that it went to."""
        if self._stream is None or self._rows % ROWS == 0:
            self._close()
            self.names.append(f"v{self._number:05}-{len(self.names):02}{SUFFIX}")
            sink = pa.OSFile(str(self._folder / self.names[-1]), "wb")
            self._stream = pa.CompressedOutputStream(sink, "zstd")
        self._stream.write(line)
        self._rows += 1
        return self.names[-1]

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def lines(shard: Path) -> Iterator[bytes]:
    """The shard's rows as lines, a bounded number of bytes in memory. IntegrityError: it is cut short or altered."""
    try:
        with pa.CompressedInputStream(pa.OSFile(str(shard), "rb"), "zstd") as stream:
            rest = b""
            while chunk := cast("bytes", stream.read(1 << 20)):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
    except OSError as error:
        raise IntegrityError(f"{shard} is damaged: {error}; bring it again with `tuneline data checkout`") from None
    if rest:
        raise IntegrityError(f"{shard} ends in the middle of a row; bring it again with `tuneline data checkout`")


def read(folder: Path) -> Iterator[Row]:
    """Every row of a corpus, in the order in which they came."""
    return read_shards(files(folder))


def read_shards(shards: Iterable[Path]) -> Iterator[Row]:
    for shard in shards:
        for line in lines(shard):
            yield Row.from_line(line)
