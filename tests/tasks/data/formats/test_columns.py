"""Columns that the params name."""

from __future__ import annotations

from tests.tasks.data.formats.spellings import MAPPED, said, to_row, unfit


def test_the_first_mapping_with_all_its_columns_reads_the_row() -> None:
    full = {"question": "q", "answer": "a", "context": "s", "topic": "t", "level": "", "other": 7}
    row = to_row(full)
    assert said(row) == [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert row.tags == ("t",)
    assert said(to_row({"question": "q", "answer": "a"})) == [("user", "q"), ("assistant", "a")]
    assert unfit({"question": 7, "answer": "a"})[0] == "wrong type"
    assert unfit({"question": "q"})[0] == "unknown format"
    assert unfit({"question": "q"}, MAPPED.model_copy(update={"format": "columns"}))[0] == "unknown format"
