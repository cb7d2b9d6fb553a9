"""Landing files of a few bytes, and what reading them gives."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data import landing
from tasks.data.landing import Found, Malformed

LIMIT = 1 << 20
ROW = b'{"a": 1}'


def read(folder: Path, name: str, data: bytes, limit: int = LIMIT) -> list[Found | Malformed]:
    file = folder / "downloaded"
    file.write_bytes(data)
    return list(landing.read(file, name, limit=limit))


def values(items: list[Found | Malformed]) -> list[Any]:
    assert all(isinstance(item, Found) for item in items), items
    return [item.value for item in items if isinstance(item, Found)]


def zstd(data: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(data)
    return buffer.getvalue().to_pybytes()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


COMPRESS = {".gz": gzip.compress, ".zst": zstd, "": bytes}
