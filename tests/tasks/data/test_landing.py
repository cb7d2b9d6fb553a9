"""Each bad input is named, no row is lost beside it, and memory stays bounded."""

from __future__ import annotations

import bz2
import csv
import datetime
import decimal
import functools
import gzip
import io
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.errors import DataError, ResourceError
from tasks.data import landing
from tasks.data.landing import Found, Malformed, Unreadable, lines, strict, structure

ROOT = Path(__file__).parents[3]
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


# JSON lines


def test_lines_are_counted_and_blank_ones_are_nothing(tmp_path: Path) -> None:
    items = read(tmp_path, "x.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n \t\r\n[1]\n{"a": 2}')
    assert items == [
        Found(1, {"a": 1}),
        Malformed(4, "expected a JSON object, found an array", "[1]"),
        Found(5, {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"a": "caf\xe9"}', "not UTF-8: byte 0xe9 at position 11 of the row"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        (b'{"x": {"a": 1, "a": 1}}', "the key 'a' stands twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": 18446744073709551616}', "more than 64 bits"),
        (b'{"a": -9223372036854775809}', "more than 64 bits"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "more than 64 bits"),
        (b'{"a": "\\ud800"}', "\\ud800 is half a character"),
        (b'{"\\uDC00": 1}', "\\udc00 is half a character"),
        (b'{"a": "\x00"}', "control character"),
        (b"\x00" * 100, "not JSON"),
        (b'{"a": "\ttab"}', "control character"),
        (b"[" * 100_000, "deeper than 100"),
        (b'{"a":' * 100_000, "deeper than 100"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "deeper than 100"),
        (b'{"a": 1} {"b": 2}', "more text after the value, at character 9"),
        (b"{'a': 1}", "not JSON"),
        (b"null", "found null"),
        (b"true", "found true or false"),
        (b'"text"', "found a string"),
        (b"1.5", "found a number"),
        (b"{", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_a_malformed_line_hides_no_other(tmp_path: Path, line: bytes, says: str) -> None:
    before, malformed, after = read(tmp_path, "x.jsonl", ROW + b"\n" + line + b"\n" + ROW)
    assert (before, after) == (Found(1, {"a": 1}), Found(3, {"a": 1}))
    assert isinstance(malformed, Malformed)
    assert malformed.place == 2
    assert says in malformed.reason
    assert "\n" not in malformed.reason
    assert len(malformed.text) <= 500


@pytest.mark.parametrize(
    "value",
    [
        {"a": 18446744073709551615, "b": -9223372036854775808, "c": 1.5e300, "d": "\\ud83d"},
        {"a": "\x00\u2028\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")},
        {"a": json.loads("[" * 99 + "]" * 99)},
    ],
)
def test_what_is_unusual_but_right_is_found(tmp_path: Path, value: dict[str, Any]) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert values(read(tmp_path, "x.jsonl", text.encode())) == [value]


@pytest.mark.parametrize("tail", [b'{"a": "hal', b'{"a": 1', b'{"a": [{"b": "\xc3', b'{"a": "\\'])
def test_a_last_line_that_stops_in_its_object_is_a_cut_file(tmp_path: Path, tail: bytes) -> None:
    with pytest.raises(Unreadable, match=r"the last line \(2\) stops in the middle"):
        read(tmp_path, "x.jsonl", ROW + b"\n" + tail)


def test_the_limit_is_of_the_row_s_own_bytes(tmp_path: Path) -> None:
    fits = b'{"a": "' + b"x" * 41 + b'"}'
    assert len(fits) == 50
    for end in (b"\n", b"\r\n", b""):
        assert values(read(tmp_path, "x.jsonl", fits + end, limit=50)) == [{"a": "x" * 41}]
        (large,) = read(tmp_path, "x.jsonl", b'{"b' + fits[2:] + end, limit=50)
        assert isinstance(large, Malformed)
        assert large.reason == "the row has more than 50 bytes (data.max_row_bytes)"
        (array,) = read(tmp_path, "x.json", b"[\n   " + fits + b"  \n]" + end, limit=50)
        assert array == Found(1, {"a": "x" * 41})


@pytest.mark.timeout(20)
def test_a_doubled_key_among_many_is_found_in_time(tmp_path: Path) -> None:
    names = [f"{number:05}" for number in range(60_000)]
    (twice,) = read(tmp_path, "x.jsonl", ("{" + ",".join(f'"{name}":1' for name in [*names, "59999"]) + "}\n").encode())
    assert "the key '59999' stands twice" in str(twice)
    with pytest.raises(Unreadable, match="names the column '59999' twice"):
        read(tmp_path, "x.csv", ",".join([*names, "59999"]).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*(bytes([byte]) for byte in b'[{"\\}],:\n\r\xff1'), b'{"a": 1}', b"x" * 40])).map(b"".join)
    | st.binary(),
    st.sampled_from([extension + ending for extension in landing.KINDS for ending in COMPRESS]),
    st.booleans(),
)  # fmt: skip
def test_any_bytes_are_rows_or_an_unreadable_file(tmp_path: Path, data: bytes, name: str, compressed: bool) -> None:
    data = COMPRESS[Path(name).suffix if name.endswith(("gz", "zst")) else ""](data) if compressed else data
    try:
        items = read(tmp_path, f"x{name}", data, limit=100)
    except Unreadable as error:
        assert "\n" not in str(error)
    else:
        assert all(before.place < after.place for before, after in itertools.pairwise(items))
        assert all("\n" not in item.reason and item.reason for item in items if isinstance(item, Malformed))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
objects = st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4)


@given(json_values)
def test_what_json_writes_is_read_back(value: Any) -> None:
    assert strict.parse(json.dumps(value)) == value
    assert strict.parse(json.dumps(value, ensure_ascii=False, indent=1)) == value


@given(st.text())
def test_any_text_is_a_value_or_not_json(text: str) -> None:
    try:
        value = strict.parse(text)
    except strict.NotJson as error:
        assert "\n" not in str(error)
        return
    assert json.loads(json.dumps(value).encode()) == value


# JSON files


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(objects, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_cut_into_its_elements(tmp_path: Path, rows: list[Any], indent: int | None, ascii: bool) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii).encode()
    items = read(tmp_path, "x.json", text)
    assert items == [Found(place, value) for place, value in enumerate(rows, 1)]


def plain_marks(data: bytes) -> list[int]:
    """The plainest reader of strings, a byte at a time."""
    found, inside, escaped = list[int](), False, False
    for at, byte in enumerate(data):
        if inside:
            inside = escaped or byte != ord('"')
            escaped = not escaped and byte == ord("\\")
        elif byte == ord('"'):
            inside = True
        elif byte in b"[]{},":
            found.append(at)
    return found


def test_marks_do_not_depend_on_the_chunks() -> None:
    """Every text of up to seven of the bytes that matter, cut at every place and into single bytes."""
    for size in range(1, 8):
        for letters in itertools.product(b'"\\,', repeat=size):
            data = bytes(letters)
            expected = plain_marks(data)
            for cut in range(1, size + 1):
                marks = structure.Marks()
                assert [*marks.of(data[:cut]), *(cut + at for at in marks.of(data[cut:]))] == expected, (data, cut)
            marks = structure.Marks()
            assert [at for at in range(size) for _ in marks.of(data[at : at + 1])] == expected, data


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (b'[{"a": 1}, {"a": NaN}, {"a": 3}]', [2]),
        (b'[{"a": 1}, 7, {"a": 3}]', [2]),
        (b'[{"a": 1},, {"a": 3}]', [2]),
        (b'[{"a": 1}, {"a": 3},]', [3]),
        (b'[{"a": 1}, {"a" 2}, {"a": "]}\\"["}]', [2]),
        (b'[{"a": 1}, {"a": "\xff"}, {"a": 3}]', [2]),
        (b'[{"a": 1}, {"a": "' + b"x" * 5000 + b'"}, {"a": 3}]', [2]),
    ],
)
def test_a_malformed_element_hides_no_other(tmp_path: Path, text: bytes, places: list[int]) -> None:
    items = read(tmp_path, "x.json", text, limit=100)
    assert [item.place for item in items if isinstance(item, Malformed)] == places
    assert [item.place for item in items] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'[{"a": 1}, {"a": 2}', "not closed"),
        (b'[{"a": 1}, {"a": "', "in or after element 2"),
        (b"[", "not closed"),
        (b'[{"a": 1}] [2]', "more text"),
        (b"[1}", "more text"),
        (b"[" * 100_000, "not closed"),
        (b'{\n"a": {"b": 1}', "in the middle of object 1"),
    ],
)
def test_an_array_without_an_end_is_unreadable(tmp_path: Path, text: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read(tmp_path, "x.json", text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1}\n{"a": 2}\n', b'{\n "a": 1\n}\n{\n "a": 2\n}', b'[{"a": 1}, {"a": 2}]', b'\n\n {"a": 1}\r\n\r\n{"a": 2}',
        b'{\n"a": 1}{"a": 2}',
    ],
)  # fmt: skip
def test_a_json_file_may_hold_objects_one_after_the_other(tmp_path: Path, text: bytes) -> None:
    assert values(read(tmp_path, "x.json", text)) == [{"a": 1}, {"a": 2}]


def test_json_lines_with_the_wrong_name_are_read_line_by_line(tmp_path: Path) -> None:
    items = read(tmp_path, "x.json", b'\n{"a": 1}\n{"a": "\n{"a": 3}\n')
    assert [type(item).__name__ for item in items] == ["Found", "Malformed", "Found"]
    assert [item.place for item in items] == [2, 3, 4]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    assert read(tmp_path, "x.json", b'{\n  "a": {"b": [1, 2]}\n}\n') == [Found(1, {"a": {"b": [1, 2]}})]


# CSV


def test_cells_hold_line_ends_commas_and_quotes(tmp_path: Path) -> None:
    items = read(tmp_path, "x.csv", b'\xef\xbb\xbfp,c\r\n"a\r\nb, ""c""",d\r\n\r\n"x\ry",\r\nlast,row')
    assert items == [
        Found(2, {"p": 'a\r\nb, "c"', "c": "d"}), Found(5, {"p": "x\ry", "c": ""}), Found(6, {"p": "last", "c": "row"})
    ]  # fmt: skip


def test_a_tsv_is_parted_by_tabs(tmp_path: Path) -> None:
    assert values(read(tmp_path, "x.tsv", b"p\tc\na, b\tc\n")) == [{"p": "a, b", "c": "c"}]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"p,p\n", "names the column 'p' twice"), (b",p,c\n", "column 1 of the header has no name"), (b"p, \n", "column 2"),
        (b"p,\xff\n", "the header is not UTF-8: byte 0xff at position 3"), (b'p,"c\nx,y\n', "the header can't be read"),
        (b"p,c\rx,y\r", "the header can't be read"), (b"p" * 200 + b"\n", "larger than a row"),
    ],
)  # fmt: skip
def test_a_table_without_a_usable_header_is_unreadable(tmp_path: Path, header: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        read(tmp_path, "x.csv", header + b"x,y\n", limit=100)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"1", "1 cells where the header names 2 columns"),
        (b"1,2,3", "3 cells where the header names 2 columns"),
        (b'"1"2,3', "not a row of the table"),
        (b"1\r2,3", "not a row of the table"),
        (b"1,\xc3(", "not UTF-8: byte 0xc3 at position 3 of line 3"),
        (b"1," + b"x" * 200, "more than 100 bytes"),
        (b'1,"' + b"x\n" * 200 + b'"', "more than 100 bytes (data.max_row_bytes) (the row goes on to line 203)"),
        (b'1,"' + b"x" * 200 + b"\n" + b"y" * 200 + b'\n"', "(the row goes on to line 5)"),
    ],
)
def test_a_malformed_row_of_a_table_hides_no_other(tmp_path: Path, row: bytes, says: str) -> None:
    before, malformed, after = read(tmp_path, "x.csv", b"p,c\nx,y\n" + row + b"\nx,y\n", limit=100)
    assert isinstance(malformed, Malformed)
    assert malformed.place == 3
    assert says in malformed.reason
    assert before == Found(2, {"p": "x", "c": "y"})
    assert isinstance(after, Found)
    assert after.value == {"p": "x", "c": "y"}


@pytest.mark.parametrize("tail", [b'1,"open', b'1,"' + b"x\n" * 300, b'1,"' + b"x" * 300])
def test_quotes_that_are_never_closed_are_a_cut_file(tmp_path: Path, tail: bytes) -> None:
    with pytest.raises(Unreadable, match="inside the quotes that the row at line 3 opens"):
        read(tmp_path, "x.csv", b"p,c\nx,y\n" + tail, limit=100)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, cells), max_size=5), st.sampled_from(["\r\n", "\n"]))
def test_what_csv_writes_is_read_back(tmp_path: Path, rows: list[tuple[str, str]], end: str) -> None:
    text = io.StringIO(newline="")
    # With this line end, Python's writer leaves a lone CR without the quotes that RFC 4180 asks for.
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([("p", "c"), *rows])
    items = read(tmp_path, "x.csv", text.getvalue().encode())
    assert values(items) == [{"p": p, "c": c} for p, c in rows]
    assert all(before.place < after.place for before, after in itertools.pairwise(items))


def test_a_large_cell_is_no_trouble_for_the_library_s_own_limit(tmp_path: Path) -> None:
    (row,) = values(read(tmp_path, "x.csv", b"p\n" + b"x" * 200_000))
    assert len(row["p"]) == 200_000


# Parquet


def test_nested_columns_become_plain_values(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": None}], None]
    table = pa.table(
        {
            "messages": pa.array(messages, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            "bytes": pa.array([b"caf\xc3\xa9", None]),
            "price": pa.array([decimal.Decimal("1.10"), None]),
            "at": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, 600), None], pa.timestamp("us")),
            "exact": pa.array([1, None], pa.timestamp("ns")),
            "day": pa.array([datetime.date(2024, 1, 2), None]),
            "clock": pa.array([datetime.time(1, 2), None]),
            "lasted": pa.array([datetime.timedelta(seconds=90), None]),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "dict": pa.array(["x", None]).dictionary_encode(),
            "score": pa.array([float("nan"), None]),
            "large": pa.array([2**64 - 1, None], pa.uint64()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    first, second = values(list(landing.read(tmp_path / "x.parquet", "x.parquet", limit=LIMIT)))
    assert first.pop("exact").startswith("1970-01-01T00:00:00")
    assert first == {
        "messages": messages[0], "bytes": "café", "price": "1.10", "at": "2024-01-02T03:04:05.000600", "day": "2024-01-02",
        "clock": "01:02:00", "lasted": 90.0, "map": {"k": 1}, "dict": "x", "score": None, "large": 2**64 - 1,
    }  # fmt: skip
    assert set(second.values()) == {None}


def test_a_parquet_row_with_no_place_in_json_hides_no_other(tmp_path: Path) -> None:
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    twice = pa.array([[], [], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    items = read(tmp_path, "x.parquet", parquet(t=broken, m=twice))
    assert [type(item).__name__ for item in items] == ["Found", "Malformed", "Malformed"]
    items = read(tmp_path, "x.parquet", parquet(b=[b"a", b"\x89PNG\xff", b"c"]))
    assert [item.place for item in items if isinstance(item, Malformed)] == [2]
    assert "bytes that are not UTF-8" in str(items[1])
    items = read(tmp_path, "x.parquet", parquet(b=["a", "x" * 200, "c"]), limit=100)
    assert "more than 100 bytes" in str(items[1])
    assert [item.place for item in items] == [1, 2, 3]


def test_row_groups_are_one_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": list(range(5000))}), tmp_path / "x", row_group_size=700)
    items = list(landing.read(tmp_path / "x", "x.parquet", limit=LIMIT))
    assert items == [Found(number + 1, {"n": number}) for number in range(5000)]


def test_parquet_that_is_damaged_is_unreadable_or_read(tmp_path: Path) -> None:
    """Any flipped byte, any cut: never another error, and a cut is always seen."""
    buffer = io.BytesIO()
    table = pa.table({"t": [f"text {n}" for n in range(50)], "n": list(range(50))})
    pq.write_table(table, buffer, write_page_checksum=True)
    whole = buffer.getvalue()
    for length in range(0, len(whole), 7):
        with pytest.raises(Unreadable):
            read(tmp_path, "x.parquet", whole[:length])
    for position in range(0, len(whole), 3):
        damaged = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        try:
            read(tmp_path, "x.parquet", damaged)
        except Unreadable as error:
            assert "\n" not in str(error)


def test_a_parquet_that_names_a_column_twice_is_unreadable(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), tmp_path / "x")
    with pytest.raises(Unreadable, match="names the column 'a' twice"):
        list(landing.read(tmp_path / "x", "x.parquet", limit=LIMIT))


def test_a_parquet_bomb_in_gzip_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="grows to more than 200 times its size"):
        read(tmp_path, "x.parquet.gz", gzip.compress(bytes(200 << 20), 9))


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


def test_bz2_is_not_taken_for_text(tmp_path: Path) -> None:
    assert not landing.is_landing_file("x.jsonl.bz2")
    items = read(tmp_path, "x.jsonl", bz2.compress(ROW))
    assert items
    assert all(isinstance(item, Malformed) for item in items)


def test_long_lines_say_how_many_quotes_they_have() -> None:
    stream = io.BufferedReader(io.BytesIO(b'short\n"' + b'x"' * 100_000 + b"\nend"))  # type: ignore[arg-type]
    first, long, last = lines.split(stream, 100)
    assert (first, last) == (b"short\n", b"end")
    assert isinstance(long, lines.Long)
    assert long.quotes == 100_001
