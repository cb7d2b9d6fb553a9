"""Landing files: the bytes of one file become values, in order and in bounded memory.

Nothing is dropped in silence: each row is `Found` or `Malformed`, and a file that can't be read to its end raises.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tasks.core.errors import from_os_error
from tasks.data.landing import columnar, json_lines, json_whole, names, streams, table
from tasks.data.landing.items import Found, Malformed, Unreadable
from tasks.data.landing.names import KINDS, is_landing_file

__all__ = ["KINDS", "Found", "Malformed", "Unreadable", "is_landing_file", "read"]


def read(path: Path, name: str, *, limit: int) -> Iterator[Found | Malformed]:
    """The rows of the local file `path`, whose landing name is `name`; a row has `limit` bytes at the most.

    Unreadable: the file can't be read to its end. It may be raised after rows were given: those count only when the
    reading ends, so that the caller leaves the whole file for the next time. ResourceError: this machine's disk is full.
    A file of no bytes has no rows, unless its kind can't have none (Parquet, gzip, zstd): then its upload has not ended.
    """
    try:
        yield from _rows(path, name, limit)
    except (Unreadable, EOFError, OSError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise from_os_error(error, f"decompressing {name}") from None
        raise Unreadable(f"{name} can't be read to its end: {_reason(error)}; mend it or upload it again") from None


def _rows(path: Path, name: str, limit: int) -> Iterator[Found | Malformed]:
    kind = names.kind(name)
    if kind == "parquet":
        with streams.opened_at_random(path, name) as stream:
            yield from columnar.read(stream, limit)
        return
    with streams.opened(path, name) as stream:
        if kind == "jsonl":
            yield from json_lines.read(stream, limit)
        elif kind == "json":
            yield from json_whole.read(stream, limit)
        else:
            yield from table.read(stream, limit, "," if kind == "csv" else "\t")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is gone"
    if isinstance(error, EOFError):
        return "the gzip data stops in the middle"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:300]
