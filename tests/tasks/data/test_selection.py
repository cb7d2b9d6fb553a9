"""Which rows `--where` means."""

from __future__ import annotations

import pytest

from tasks.core.errors import ParamsError
from tasks.data import selection
from tasks.data.rows import Message, Row

ROW = Row(
    id="a1",
    messages=(Message(role="user", content="Call 0171 or mail"), Message(role="assistant", content="Done.")),
    source="web",
    tags=("vip", "de"),
)


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        (["id=a1"], True), (["id=a"], False), (["id~^a"], True), (["source=web"], True), (["tag=vip"], True),
        (["tag=VIP"], False), (["text~017\\d"], True), (["text=Done."], True), (["tag=vip", "source=mail"], False),
        (["tag=vip", "tag=de"], True), (["text~Done\\.$"], True),
    ],
)  # fmt: skip
def test_a_condition_means_these_rows(conditions: list[str], matches: bool) -> None:
    chosen = selection.parse(conditions)
    assert chosen(ROW) == matches
    assert str(chosen) == " and ".join(conditions)


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ([], "--where is missing"), (["vip"], "expected FIELD=VALUE"), (["label=x"], "id, source, tag, text"),
        (["id="], "expected FIELD=VALUE"), (["text~("], "no regular expression"),
    ],
)  # fmt: skip
def test_a_condition_that_is_none_is_named(conditions: list[str], says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        selection.parse(conditions)
