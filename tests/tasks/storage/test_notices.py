"""Messages of S3 are read as S3 writes them; whatever else lies in a queue is known as foreign."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.storage.notices import Landed, read
from tests.amazon import told

TEST = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-29T00:00:00.000Z", "Bucket": "b"}


def enveloped(value: object) -> dict[str, Any]:
    return {"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:r:1:t", "Message": json.dumps(value)}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_key_survives_the_encoding_of_s3(keys: list[str]) -> None:
    landed = tuple(Landed("b", key) for key in keys)
    for safe in ("", "/"):  # Amazon leaves slashes as they are, others don't
        message = told(*(quote_plus(key, safe=safe) for key in keys))
        assert read(json.dumps(message)) == landed
        assert read(json.dumps(message, ensure_ascii=False)) == landed
        assert read(json.dumps(enveloped(message))) == landed


@pytest.mark.parametrize(
    ("written", "meant"), [("a+b", "a b"), ("a%2Bb", "a+b"), ("B%C3%BCro/%25.jsonl", "Büro/%.jsonl")]
)
def test_a_key_is_decoded_once_and_as_a_form_is(written: str, meant: str) -> None:
    assert read(json.dumps(told(written))) == (Landed("b", meant),)


@pytest.mark.parametrize("event", ["ObjectCreated:CompleteMultipartUpload", "s3:ObjectCreated:Copy"])
def test_whatever_brings_bytes_counts(event: str) -> None:
    assert read(json.dumps(told("k", event=event))) == (Landed("b", "k"),)


@pytest.mark.parametrize(
    "message", [TEST, told("k", event="ObjectRemoved:Delete"), told("k", event="ObjectTagging:Put")]
)
def test_what_brings_none_is_known_and_tells_nothing(message: dict[str, Any]) -> None:
    assert read(json.dumps(message)) == read(json.dumps(enveloped(message))) == ()


@pytest.mark.parametrize(
    "body",
    [
        "", "hello", "[]", "null", "{}", '{"Records": []}', json.dumps({**TEST, "Event": "other"}),
        json.dumps(told("")), json.dumps(told("%FF")), json.dumps(told("ok", "%C3")),
        json.dumps({"Records": [{"eventName": "ObjectCreated:Put"}]}),
        json.dumps({"Records": [{"eventSource": "aws:ses", "ses": {}}]}),
        json.dumps({**enveloped(TEST), "Message": "hello"}), json.dumps(enveloped(enveloped(TEST))),
        json.dumps({**enveloped(told("k")), "Type": "SubscriptionConfirmation"}),
        "[" * 100_000, json.dumps(told("k"))[:-1],
    ],
)  # fmt: skip
def test_what_s3_did_not_write_is_foreign(body: str) -> None:
    assert read(body) is None


@given(st.text())
def test_no_text_is_too_strange(body: str) -> None:
    assert read(body) is None
