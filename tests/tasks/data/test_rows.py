"""Every row is taken whole or refused by name; splits move no row when others arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import DataError
from tasks.core.params import Splits
from tasks.data import rows, splits
from tests import tiny

GOOD = {"id": "1", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def test_the_sample_corpus_reads(tmp_path: Path) -> None:
    read = list(rows.read_folder(Path(__file__).parents[3] / "data" / "sample"))
    assert len(read) == 600
    assert len({row.id for row in read}) == 600
    assert len({row.group for row in read}) == 600


def messages(*roles: str) -> dict[str, Any]:
    return {"id": "1", "messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "not a JSON object"), (b"[1]", "valid dictionary or instance"), (b'{"id": "1"}', "messages"),
        (b'{"id": "1", "messages": [], "id": "2"}', "'id' stands twice"), (b'{"id": NaN}', "NaN is not JSON"),
        (b'\xff\xfe{"id"', "not UTF-8"), (b"[" * 100_000, "not a JSON object"),
        (b'{"id": "1", "messages": [{"role": "user", "content": "\\ud800"}]}', "surrogates"),
        (json.dumps(messages()).encode(), "found none"),
        (json.dumps(messages("user")).encode(), "found user"),
        (json.dumps(messages("assistant", "user")).encode(), "found assistant, user"),
        (json.dumps(messages("system", "system", "user", "assistant")).encode(), "in turn"),
        (json.dumps(messages("user", "robot")).encode(), "messages.1.role"),
        (json.dumps({"id": "1", "messages": [{"role": "user", "content": " \n"}]}).encode(), "user message is blank"),
        (json.dumps({"id": "1", "messages": [{"role": "user", "content": None}]}).encode(), "messages.0.content"),
        (json.dumps({**GOOD, "lable": 1}).encode(), "lable"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: bytes, says: str) -> None:
    file = tmp_path / "day.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataError) as caught:
        list(rows.read(file))
    assert f"{file}:3: " in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("harmless", [b"\xef\xbb\xbf%s\n", b"%s\r\n", b"\n\n%s", b"%s"])
def test_byte_order_mark_and_line_ends_do_no_harm(tmp_path: Path, harmless: bytes) -> None:
    (tmp_path / "day.jsonl").write_bytes(harmless % json.dumps(GOOD).encode())
    assert [row.id for row in rows.read(tmp_path / "day.jsonl")] == ["1"]


def test_a_row_reads_back(tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "day.jsonl", 50)
    read = list(rows.read(file))
    (tmp_path / "again.jsonl").write_text("".join(row.to_line() for row in read), encoding="utf-8")
    assert list(rows.read(tmp_path / "again.jsonl")) == read


def test_case_and_spacing_of_the_prompt_don_t_part_a_group() -> None:
    other = {"id": "2", "messages": [{"role": "user", "content": " Q\n"}, {"role": "assistant", "content": "other"}]}
    assert rows.Row.model_validate(GOOD).group == rows.Row.model_validate(other).group


@given(st.lists(st.text(), unique=True, min_size=1), st.floats(0, 0.4), st.floats(0, 0.4))
def test_adding_rows_moves_none(groups: list[str], valid: float, test: float) -> None:
    shares = Splits(valid=valid, test=test)
    alone = {group: splits.place(group, shares, "salt") for group in groups}
    assert all(splits.place(group, shares, "salt") == place for group, place in reversed(alone.items()))


def test_shares_are_kept() -> None:
    places = [splits.place(str(number), Splits(valid=0.1, test=0.2), "salt") for number in range(10_000)]
    assert abs(places.count("test") - 2000) < 200
    assert abs(places.count("valid") - 1000) < 150


def test_a_larger_share_takes_no_row_out_of_the_test_split() -> None:
    for number in range(1000):
        if splits.place(str(number), Splits(test=0.1), "s") == "test":
            assert splits.place(str(number), Splits(test=0.3), "s") == "test"
