"""Shards: what is written is read, equal rows give equal bytes, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import IntegrityError
from tasks.data import shards
from tasks.data.rows import Message, Row


def row(number: int, text: str = "Answer.") -> Row:
    return Row(id=str(number), messages=(Message(role="user", content="Ask."), Message(role="assistant", content=text)))


def write(folder: Path, number: int, count: int) -> list[str]:
    with shards.Writer(folder, number) as writer:
        for each in range(count):
            writer.write(row(each).to_line())
    return writer.names


def test_rows_come_back_in_the_order_of_their_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS", 10)
    assert write(tmp_path, 100_000, 5) == ["v100000-00.jsonl.zst"]
    assert write(tmp_path, 2, 25) == ["v00002-00.jsonl.zst", "v00002-01.jsonl.zst", "v00002-02.jsonl.zst"]
    assert [int(each.id) for each in shards.read(tmp_path)] == [*range(25), *range(5)]
    assert [shards.version(file) for file in shards.files(tmp_path)] == [2, 2, 2, 100_000]


def test_a_version_without_rows_has_no_shard(tmp_path: Path) -> None:
    assert write(tmp_path, 1, 0) == [] and list(tmp_path.iterdir()) == []


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=20))
def test_equal_rows_give_equal_bytes_and_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rows = [row(number, f"x{text}") for number, text in enumerate(texts)]
    for name in ("v00001-00", "v00001-01"):
        shards.write(folder / f"{name}{shards.SUFFIX}", [each.to_line() for each in rows])
    one, other = shards.files(folder)
    assert one.read_bytes() == other.read_bytes()
    assert list(shards.read_shards([one])) == rows


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    (name,) = write(tmp_path, 1, 200)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(IntegrityError, match=name):
        list(shards.read(tmp_path))


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl.zst").write_bytes(b"")
    with pytest.raises(IntegrityError, match="not a shard's name"):
        shards.files(tmp_path)
