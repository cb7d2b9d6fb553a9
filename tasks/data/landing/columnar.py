"""Parquet, a batch of rows at a time."""

from __future__ import annotations

import datetime
import decimal
import io
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data.landing.items import Found, Malformed, Unreadable, malformed, too_large

_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 1024
# Text that is not UTF-8, a map with a key twice, a date after the year 9999.
_UNREAD = (ValueError, KeyError, OverflowError)


def read(stream: io.BufferedReader, limit: int) -> Iterator[Found | Malformed]:
    """Memory: a batch of about 4 MiB, or the largest row. Raises pa.ArrowException or OSError where it is damaged."""
    file = pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    columns = file.schema_arrow.names
    if len(set(columns)) < len(columns):
        seen: set[str] = set()
        raise Unreadable(
            f"it names the column {next(name for name in columns if name in seen or seen.add(name))!r} twice"
        )
    place = 0
    for batch in _batches(file):
        for value in _values(batch):
            place += 1
            yield _item(place, value, limit)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        row_bytes = about.total_byte_size // max(1, about.num_rows) + 1
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))
        yield from file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """Each row as Python values, or why it has none. A whole batch is faster; row by row finds the one at fault."""
    try:
        return [*batch.to_pylist(maps_as_pydicts="strict")]
    except _UNREAD:
        return [_alone(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _alone(row: pa.RecordBatch) -> dict[str, Any] | str:
    try:
        return row.to_pylist(maps_as_pydicts="strict")[0]
    except _UNREAD as error:
        return " ".join(str(error).split())


def _item(place: int, value: dict[str, Any] | str, limit: int) -> Found | Malformed:
    if isinstance(value, str):
        return malformed(place, f"a value can't be read: {value}", b"")
    try:
        data = orjson.dumps(value, default=_plain)
    except TypeError as error:
        return malformed(
            place, f"a value has no place in JSON: {error.__cause__ or error}", repr(value)[:1000].encode()
        )
    if len(data) > limit:
        return too_large(place, limit, data)
    return Found(place, orjson.loads(data))


def _plain(value: object) -> Any:
    """What JSON lacks: text kept as bytes is text, an exact number and a moment in time are written out."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise TypeError(f"{len(value)} bytes that are not UTF-8 text") from None
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    raise TypeError(f"a value of type {type(value).__name__}")
