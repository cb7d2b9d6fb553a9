"""Personal data is found, taken out, and not seen where there is none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.sections import Pii
from tasks.data.quality import personal, pii
from tasks.data.rows import ImagePart, Message, Row, TextPart, ToolCall

SAMPLE = Path(__file__).parents[4] / "data" / "sample"
SHARED = Path(__file__).parents[5] / "shared" / "data" / "formats"


def kinds(text: str) -> list[str]:
    return [span.kind for span in personal.spans(text)]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to Ann.Lee+x@mail.example.co.uk.", "Write to [EMAIL]."),
        ("邮箱abc@qq.com，电话13812345678。", "邮箱[EMAIL]，电话[PHONE]。"),
        ("call +49 30 1234567 now", "call [PHONE] now"), ("+4915112345678", "[PHONE]"),
        ("+1 (555) 123-4567", "[PHONE]"), ("(212) 555-0123", "[PHONE]"), ("212-555-0123", "[PHONE]"),
        ("0171 2345678", "[PHONE]"), ("030/1234567", "[PHONE]"), ("0049 171 2345678", "[PHONE]"),
        ("06 12 34 56 78", "[PHONE]"), ("020 7946 0958", "[PHONE]"), ("07700900123", "[PHONE]"), ("555-0199", "[PHONE]"),
        ("card 4111 1111 1111 1111, exp 12/27", "card [CARD], exp 12/27"), ("5500-0055-5555-5559", "[CARD]"),
        ("378282246310005", "[CARD]"),
        ("IBAN DE89 3704 0044 0532 0130 00 PLEASE", "IBAN [IBAN] PLEASE"), ("GB29NWBK60161331926819", "[IBAN]"),
        ("BE68 5390 0754 7034 THIS IS", "[IBAN] THIS IS"),
        ("from 84.113.20.7:", "from [IP]:"), ("2a02:8108:9640::1f", "[IP]"), ("203.0.113.9.", "[IP]."),
    ],
)  # fmt: skip
def test_found_and_taken_out(text: str, redacted: str) -> None:
    assert pii.redacted(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "order LM-88310, 114-1234567-1234567", "2024-05-17 10:30:45", "17.05.2024", "05/17/2024", "01-02-2023 04:05",
        "$1,234,567.89", "3.14159265358979", "1,234,567,890", "version 10.4.22.1", "v12.34.56.78", "section 1.2.3.4",
        "192.168.1.10 and 127.0.0.1, mask 255.255.255.0", "::1", "std::vector<int>::iterator", "ticket 4111111111111112",
        "1234567890123456", "0000 0000 0000 0000", "1700000000", "1700000000000", "git@github.com:a/b.git", "logo@2x.png",
        "2010-2020, 1999 2000 2001", "10 20 30 40 50 60", "DE00370400440532013000", "00:1B:44:11:3A:B7",
        "ISBN 978-3-16-148410-0", "from 0800 to 1700", "0.1.2.3", "x = 5 + 3", "@user", "1/2/3/4/5",
    ],
)  # fmt: skip
def test_look_alikes_are_left(text: str) -> None:
    assert kinds(text) == []


@given(
    st.lists(
        st.sampled_from(["a@b.de", "+49 30 1234567", "4111111111111111", "8.34.1.2", "1", ".", " ", "-", "x", "("])
    )
)
def test_nothing_is_left_after_redaction(parts: list[str]) -> None:
    text = "".join(parts)
    found = personal.spans(text)
    assert all(one.end <= other.start for one, other in pairwise(found))
    safe = pii.redacted(text)
    assert personal.spans(safe) == []
    assert pii.redacted(safe) == safe
    assert (safe == text) == (not found)


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert personal.spans(pii.redacted(text)) == []


@pytest.mark.parametrize(
    "text", ["1", "1 ", "a", "a.", "A1", "DE11 ", ":a", "0171 ", "a@b.de ", "@", "+49 1 ", "1.", "(0"]
)
@pytest.mark.timeout(120)  # the square of its length would take hours
def test_no_text_takes_long(text: str) -> None:
    pii.redacted(text * (200_000 // len(text)) + "@ 1111111 :")


def full_row() -> Row:
    return Row(
        id="1",
        messages=(
            Message(role="system", content="mail a@b.de"),
            Message(
                role="user",
                content=(TextPart(type="text", text="I am c@d.de"), ImagePart(type="image", image="x/1.png")),
            ),
            Message(
                role="assistant", tool_calls=(ToolCall(name="f", arguments={"to": ["e@f.de", 1, {"x": "g@h.de"}]}),)
            ),
            Message(role="tool", content='{"ip": "84.113.20.7"}'),
            Message(role="assistant", content="done"),
        ),
        tags=("t",),
    )


def test_every_text_of_a_row_is_redacted() -> None:
    row, found = pii.examine(full_row(), Pii(action="redact"))
    line = row.to_line()
    assert b"@" not in line
    assert b"84.113" not in line
    assert Row.from_line(line) == row
    assert (row.id, row.tags, row.images) == ("1", ("t",), ("x/1.png",))
    assert row.messages[2].tool_calls[0].arguments == {"to": ["[EMAIL]", 1, {"x": "[EMAIL]"}]}
    assert {finding.rule: finding.detail for finding in found} == {"pii.email": "email: 4", "pii.ip": "ip: 1"}
    assert pii.examine(row, Pii(action="redact")) == (row, [])


def test_only_the_kinds_asked_for() -> None:
    row, found = pii.examine(full_row(), Pii(action="redact", kinds=("ip",)))
    assert b"a@b.de" in row.to_line()
    assert [finding.rule for finding in found] == ["pii.ip"]
    assert pii.examine(full_row(), Pii(action="ignore")) == (full_row(), [])
    assert pii.examine(full_row(), Pii(action="drop"))[0] == full_row()


def test_the_sample_has_none() -> None:
    rows = [Row.from_line(line) for file in sorted(SAMPLE.glob("*.jsonl")) for line in file.read_bytes().splitlines()]
    assert len(rows) == 600
    assert [row.id for row in rows if pii.examine(row, Pii())[1]] == []


def test_few_in_a_thousand_general_rows() -> None:
    if not SHARED.exists():
        pytest.skip(f"no shared data at {SHARED}")
    rows = orjson.loads((SHARED / "alpaca_en_demo.json").read_bytes())
    found = [kind for row in rows for kind in kinds("\n".join((row["instruction"], row["input"], row["output"])))]
    assert sorted(set(found)) == ["email", "phone"]  # looked at: five addresses and one number, all meant as such
    assert len(found) == 6
