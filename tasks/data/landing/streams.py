"""The bytes of a landing file, decompressed as they are read."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from tasks.data.landing import names
from tasks.data.landing.items import Unreadable

_CHUNK = 1 << 18
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_FOREIGN = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xff\xfe": "UTF-16 text, and not UTF-8",
    b"\xfe\xff": "UTF-16 text, and not UTF-8",
    b"\x1f\x8b": "compressed twice",
    b"\x28\xb5\x2f\xfd": "compressed twice",
}
BOM = b"\xef\xbb\xbf"

# Parquet is compressed already, so that compressing it again gains little: a file that grows more is a bomb.
_LARGEST_GROWTH = 200
_GROWTH_FREE = 64 << 20


@contextmanager
def opened(path: Path, name: str) -> Generator[io.BufferedReader]:
    """The content of a text file, without a byte order mark. Unreadable: the first bytes belong to another kind.

    Raises what the decompressor raises while it is read: EOFError, OSError, zlib.error.
    """
    with _decompressed(path, name) as stream:
        head = stream.peek(len(BOM))
        for magic, what in _FOREIGN.items():
            if head.startswith(magic):
                raise Unreadable(f"it is not the kind that its name says: it looks like {what}")
        if head.startswith(BOM):
            stream.read(len(BOM))
        yield stream


@contextmanager
def opened_at_random(path: Path, name: str) -> Generator[io.BufferedReader]:
    """The content of a file that is not read from front to back. Decompressed, it lies in a temporary file."""
    with _decompressed(path, name) as stream:
        if isinstance(stream.raw, io.FileIO):
            yield stream
            return
        with tempfile.TemporaryFile() as whole:
            room = _GROWTH_FREE + _LARGEST_GROWTH * path.stat().st_size
            while chunk := stream.read(_CHUNK):
                room -= len(chunk)
                if room < 0:
                    raise Unreadable(f"it grows to more than {_LARGEST_GROWTH} times its size when decompressed")
                whole.write(chunk)
            whole.seek(0)
            yield cast("io.BufferedReader", whole)


@contextmanager
def _decompressed(path: Path, name: str) -> Generator[io.BufferedReader]:
    """By the first bytes; by the name only to tell an upload that stopped within them."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        head = file.peek(4)[:4]
        claimed = names.compression(name)
        if claimed and len(head) < len(_MAGIC[claimed]) and _MAGIC[claimed].startswith(head):
            raise Unreadable(f"the {claimed} data stops after {len(head)} bytes")
        raw: Any = None
        if head.startswith(_MAGIC["gzip"]):
            raw = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif head.startswith(_MAGIC["zstd"]):
            raw = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
        yield io.BufferedReader(raw, _CHUNK) if raw is not None else file
