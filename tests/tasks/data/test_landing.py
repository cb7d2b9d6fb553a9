"""Each bad input is named, no row is lost beside it, and memory stays bounded."""

from __future__ import annotations

import bz2
import functools
import gzip
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataError, ResourceError
from tasks.data import landing
from tasks.data.landing import Found, Malformed, Unreadable
from tests.landed import COMPRESS, LIMIT, ROW, parquet, read, values

ROOT = Path(__file__).parents[3]


# Names


@pytest.mark.parametrize(
    "name",
    ["day1.jsonl", "2024/day1.ndjson.gz", "a.json", "a.csv.zst", "A.TSV", "x.parquet", "x.parquet.gz", "my.tmp.jsonl"],
)
def test_these_are_landing_files(name: str) -> None:
    assert landing.is_landing_file(name)


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.jsonl", ".git/a.jsonl", "a/.b/c.csv", "day1.jsonl.partial", "day1.jsonl.tmp", "_SUCCESS", "manifest.json",
        "2024/manifest.json", "readme.md", "a.jsonl.bz2", "_temporary/0/a.parquet", "jsonl", "a.gz", "", "day1.jsonl~",
    ],
)  # fmt: skip
def test_these_are_none(name: str) -> None:
    assert not landing.is_landing_file(name)


def test_every_kind_has_a_reader(tmp_path: Path) -> None:
    samples = {
        "jsonl": ROW, "json": b"[" + ROW + b"]", "csv": b"a,b\n1,2\n", "tsv": b"a\tb\n1\t2\n", "parquet": parquet(a=[1])
    }  # fmt: skip
    assert set(landing.KINDS.values()) == set(samples)
    for extension, kind in landing.KINDS.items():
        for ending, compress in COMPRESS.items():
            assert len(values(read(tmp_path, f"x{extension}{ending}", compress(samples[kind])))) == 1


def test_a_file_of_no_known_kind_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"notes\.txt .*ends with none of \.jsonl"):
        read(tmp_path, "notes.txt", ROW)


def test_a_file_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="day1.jsonl can't be read to its end: it is gone"):
        list(landing.read(tmp_path / "nowhere", "day1.jsonl", limit=LIMIT))


def test_a_folder_in_place_of_a_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="directory"):
        list(landing.read(tmp_path, "day1.jsonl", limit=LIMIT))


def test_a_file_deleted_while_it_is_read_gives_all_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "day1.jsonl"
    file.write_bytes(ROW * 1 + b"\n" + b"\n".join([ROW] * 100_000))
    items = landing.read(file, file.name, limit=LIMIT)
    assert next(items) == Found(1, {"a": 1})
    file.unlink()
    assert sum(1 for _ in items) == 100_000


def test_a_full_disk_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a real file on which every write fails")
    monkeypatch.setattr(tempfile, "TemporaryFile", functools.partial(open, "/dev/full", "r+b", buffering=0))
    with pytest.raises(ResourceError, match=r"decompressing x\.parquet\.gz: the disk is full"):
        read(tmp_path, "x.parquet.gz", gzip.compress(parquet(a=[1])))


# Compression


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_data_that_stops_anywhere_is_unreadable(tmp_path: Path, ending: str) -> None:
    whole = COMPRESS[ending](b"".join(b'{"a": %d}\n' % number for number in range(300)))
    for length in range(len(whole)):
        with pytest.raises(Unreadable, match=r"day1\.jsonl.*mend it or upload it again"):
            read(tmp_path, f"day1.jsonl{ending}", whole[:length])
    assert len(values(read(tmp_path, f"day1.jsonl{ending}", whole))) == 300


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_rows_before_the_cut_may_be_given_before_it_is_found(tmp_path: Path, ending: str) -> None:
    noise = random.Random(0)
    data = b"".join(b'{"a": "%s"}\n' % noise.randbytes(300).hex().encode() for _ in range(5000))
    file = tmp_path / "x"
    file.write_bytes(COMPRESS[ending](data)[:-100])
    given = []
    with pytest.raises(Unreadable):
        given.extend(landing.read(file, f"x.jsonl{ending}", limit=LIMIT))
    assert issubclass(Unreadable, DataError)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_members_one_after_the_other_are_one_file(tmp_path: Path, ending: str) -> None:
    two = COMPRESS[ending](ROW + b"\n") + COMPRESS[ending](b'{"a": 2}\n')
    assert values(read(tmp_path, f"x.jsonl{ending}", two)) == [{"a": 1}, {"a": 2}]


def test_a_flipped_bit_in_gzip_is_unreadable(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"\n".join([ROW] * 2000), mtime=0))
    for position in range(10, len(whole)):
        damaged = bytes(whole[:position]) + bytes([whole[position] ^ 1]) + bytes(whole[position + 1 :])
        with pytest.raises(Unreadable):
            read(tmp_path, "x.jsonl.gz", damaged)


def test_the_first_bytes_decide_where_the_extension_lies(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst"):
        for compress in COMPRESS.values():
            assert values(read(tmp_path, name, compress(ROW))) == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.jsonl", parquet(a=[1]), "looks like Parquet"),
        ("x.csv", parquet(a=[1]), "looks like Parquet"),
        ("x.csv", b"PK\x03\x04rest", "spreadsheet"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16"),
        ("x.jsonl.gz", gzip.compress(gzip.compress(ROW, mtime=0), mtime=0), "compressed twice"),
        ("x.parquet", ROW * 10, "arquet"),
        ("x.parquet", b"", "arquet"),
        ("x.json", b"hello", "neither a JSON array nor a JSON object"),
        ("x.json", b"17", "neither"),
        ("x.jsonl.gz", b"", "gzip data stops after 0 bytes"),
        ("x.jsonl.zst", b"\x28\xb5", "zstd data stops after 2 bytes"),
    ],
)
def test_a_file_that_is_not_of_its_kind_is_unreadable(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read(tmp_path, name, data)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.jsonl.gz", "x.json.zst"])
@pytest.mark.parametrize("blank", [b"", b"\n\r\n  \n", b"\xef\xbb\xbf"])
def test_a_blank_file_has_no_rows(tmp_path: Path, name: str, blank: bytes) -> None:
    if "csv" in name or "tsv" in name:
        blank = blank.replace(b" ", b"")
    assert read(tmp_path, name, COMPRESS[Path(name).suffix if name.endswith(("gz", "zst")) else ""](blank)) == []


def test_bz2_is_not_taken_for_text(tmp_path: Path) -> None:
    assert not landing.is_landing_file("x.jsonl.bz2")
    items = read(tmp_path, "x.jsonl", bz2.compress(ROW))
    assert items
    assert all(isinstance(item, Malformed) for item in items)


# Memory


GROWTH = """
import pathlib, sys
from tasks.data import landing
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) >> 10
start = peak()
items = [type(item) for item in landing.read(pathlib.Path(sys.argv[1]), sys.argv[2], limit=1 << 20)]
print(len(items), items.count(landing.Found), peak() - start)
"""
SCHEMA = pa.schema([("t", pa.string())])


def growth(file: Path, name: str) -> tuple[int, int, int]:
    """Rows, rows found, and MiB by which the peak of a fresh process's resident memory grew while it read the file."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to measure memory")
    ran = subprocess.run([sys.executable, "-c", GROWTH, file, name], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows, found, mebibytes = map(int, ran.stdout.split())
    return rows, found, mebibytes


@pytest.mark.parametrize(("name", "start", "end"), [
    ("x.jsonl", b'{"a": 1}\n{"a": "', b'"}\n{"a": 2}\n'),
    ("x.json", b'[{"a": 1}, {"a": "', b'"}, {"a": 2}]'),
    ("x.csv", b'a\n1\n"', b'"\n2\n'),
])  # fmt: skip
@pytest.mark.parametrize("compressed", [False, True])
def test_a_row_of_200_megabytes_is_passed_over_in_little_memory(
    tmp_path: Path, name: str, start: bytes, end: bytes, compressed: bool
) -> None:
    file = tmp_path / "large"
    with gzip.open(file, "wb", compresslevel=1) if compressed else file.open("wb") as stream:
        stream.write(start)
        for _ in range(200):
            stream.write(b"x" * (1 << 20))
        stream.write(end)
    assert not compressed or file.stat().st_size < 2 << 20
    rows, found, mebibytes = growth(file, name)
    assert (rows, found) == (3, 2)
    assert mebibytes < 40


def test_a_zstd_bomb_is_read_in_little_memory(tmp_path: Path) -> None:
    with pa.CompressedOutputStream(str(tmp_path / "bomb"), "zstd") as stream:
        for _ in range(200):
            stream.write(b" " * (1 << 20))
    rows, _, mebibytes = growth(tmp_path / "bomb", "x.jsonl.zst")
    assert rows == 1
    assert mebibytes < 40


def test_a_large_parquet_is_read_in_little_memory(tmp_path: Path) -> None:
    noise = random.Random(0)
    texts = [noise.randbytes(1 << 16).hex() for _ in range(100)]
    # Without `write_batch_size`, pyarrow puts 1,024 values on a page, and a page is the least that can be read.
    with pq.ParquetWriter(
        tmp_path / "x", SCHEMA, use_dictionary=False, write_batch_size=8, compression="none"
    ) as writer:
        writer.write_table(pa.table({"t": texts * 15}))
    rows, found, mebibytes = growth(tmp_path / "x", "x.parquet")
    assert (rows, found) == (1500, 1500)
    assert (tmp_path / "x").stat().st_size > 180 << 20  # in one row group
    assert mebibytes < 100
