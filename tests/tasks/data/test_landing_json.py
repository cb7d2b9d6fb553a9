"""JSON lines and JSON files: every value is found, or named where it is malformed."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data import landing
from tasks.data.landing import Found, Malformed, Unreadable, lines, strict, structure
from tests.landed import COMPRESS, ROW, read, values

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


def test_long_lines_say_how_many_quotes_they_have() -> None:
    stream = io.BufferedReader(io.BytesIO(b'short\n"' + b'x"' * 100_000 + b"\nend"))  # type: ignore[arg-type]
    first, long, last = lines.split(stream, 100)
    assert (first, last) == (b"short\n", b"end")
    assert isinstance(long, lines.Long)
    assert long.quotes == 100_001


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
