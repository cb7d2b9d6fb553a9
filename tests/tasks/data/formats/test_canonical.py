"""The form that rows are kept in."""

from __future__ import annotations

from tasks.core.sections import DataParams
from tasks.data import formats
from tests.tasks.data.formats.spellings import EXAMPLES, PARAMS, A, Q, unfit


def test_a_canonical_row_with_a_key_too_many_is_read_as_messages_unless_the_format_is_named() -> None:
    typo = {**EXAMPLES["canonical"], "lable": 1}
    assert formats.recognise(typo, PARAMS) == "messages"
    kind, message = unfit(typo, DataParams(format="canonical"))
    assert (kind, "lable" in message) == ("unknown key", True)
    assert unfit({"id": "1", "messages": [{**Q, "name": "x"}, A]}, DataParams(format="canonical"))[0] == "unknown key"
