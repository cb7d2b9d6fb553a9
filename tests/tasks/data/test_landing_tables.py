"""CSV, TSV and Parquet: every row is found, or named where it is malformed."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data import landing
from tasks.data.landing import Found, Malformed, Unreadable
from tests.landed import LIMIT, parquet, read, values

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
