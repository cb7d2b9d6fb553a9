"""The queue of what has landed, on moto's server: told by its bucket, by a topic, and by anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from flows.listening import hand_on
from tasks.core.errors import StorageError, TransientError
from tasks.storage import queue, refusals
from tasks.storage.notices import Landed
from tasks.storage.queue import Look, Queue
from tasks.storage.refusals import Refusal
from tests import amazon
from tests.amazon import Amazon, told

STRANGE = ("rows/a b.jsonl", "rows/a+b.jsonl", "Büro/%41/日本語.jsonl", "rows/day1.jsonl")


class Told:
    """Keeps what it is told, and how many messages lay in the queue at that moment."""

    def __init__(self, aws: Amazon) -> None:
        self._aws = aws
        self.calls: list[tuple[Sequence[Landed], int]] = []
        self.warned: list[str] = []

    def __call__(self, files: Sequence[Landed]) -> None:
        self.calls.append((files, self._aws.waiting()))


@pytest.mark.parametrize("topic", [False, True])
def test_a_bucket_tells_of_every_key_and_all_of_it_is_one_announcement(aws: Amazon, topic: bool) -> None:
    aws.notify(topic=topic)
    aws.put(*STRANGE, *(f"rows/{number}.jsonl" for number in range(21)))
    ear = Told(aws)
    hand_on(aws.queue(), ear, ear.warned.append)
    ((files, waiting),) = ear.calls
    assert {file.key for file in files} == {*STRANGE, *(f"rows/{number}.jsonl" for number in range(21))}
    assert {file.bucket for file in files} == {aws.bucket} and len(files) == 25
    assert waiting == 26 and aws.waiting() == 0 and ear.warned == []  # one is S3's test event
    hand_on(aws.queue(), ear, ear.warned.append)
    assert len(ear.calls) == 1


def test_what_brings_no_bytes_is_deleted_and_not_announced(aws: Amazon) -> None:
    aws.notify("s3:ObjectRemoved:*")
    aws.put("k")
    aws.s3.delete_object(Bucket=aws.bucket, Key="k")
    assert aws.waiting() == 2
    ear = Told(aws)
    assert hand_on(aws.queue(), ear, ear.warned.append).files == ()
    assert ear.calls == [] and ear.warned == [] and aws.waiting() == 0


def test_a_foreign_message_stays_and_the_rest_is_handed_on(aws: Amazon) -> None:
    aws.notify()
    foreign = aws.send("hello")
    aws.put("k")
    ear = Told(aws)
    look = hand_on(aws.queue(), ear, ear.warned.append)
    assert look.files == (Landed(aws.bucket, "k"),) and look.foreign == (foreign,)
    (words,) = ear.warned
    assert foreign in words and "is no notification of S3's" in words
    assert aws.waiting() == 1


def test_a_key_that_is_told_of_twice_is_announced_once(aws: Amazon) -> None:
    aws.notify()
    aws.put("k", "other", "k")
    assert sorted(file.key for file in aws.queue().look().files) == ["k", "other"]


def test_nothing_is_deleted_when_it_could_not_be_handed_on(aws: Amazon) -> None:
    def refuses(files: Sequence[Landed]) -> None:
        raise TransientError("nobody there")

    aws.notify()
    aws.put("k")
    with pytest.raises(TransientError, match="nobody there"):
        hand_on(aws.queue(), refuses, pytest.fail)
    assert aws.waiting() == 2


def test_deleting_again_changes_nothing_and_nothing_is_deleted_of_an_empty_look(aws: Amazon) -> None:
    aws.notify()
    source = aws.queue()
    look = source.look()
    for each in (Look(), look, look):
        source.delete(each)
    assert aws.waiting() == 0


def test_messages_that_are_visible_again_at_once_end_the_look(aws: Amazon) -> None:
    aws.sqs.set_queue_attributes(QueueUrl=aws.url, Attributes={"VisibilityTimeout": "0"})
    aws.notify()
    aws.put("k")
    assert aws.queue().look().files == (Landed(aws.bucket, "k"),)


def test_a_look_ends_though_more_lies_there(aws: Amazon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LOOK_SECONDS", 0.0)
    for number in range(queue.BATCH + 3):
        aws.send(told(str(number)))
    looks = [aws.queue().look() for _ in range(2)]
    assert [len(look.files) for look in looks] == [queue.BATCH, 3]


def test_what_was_received_before_the_connection_broke_counts(aws: Amazon) -> None:
    class Breaking(Queue):
        def _receive(self, wait: int) -> Sequence[Mapping[str, Any]]:
            if aws.waiting() == aws.hidden():
                raise TransientError("broken")
            return super()._receive(wait)

    aws.send(told("k"))
    breaking = Breaking(aws.url, aws.queue()._client)
    look = breaking.look()
    assert look.files == (Landed("b", "k"),)
    with pytest.raises(TransientError, match="broken"):
        breaking.look()
    breaking.delete(look)
    assert aws.waiting() == 0


def test_a_queue_that_is_not_there_is_one_message(aws: Amazon) -> None:
    missing = Queue.open(aws.url + "-x", aws.environ)
    for ask in (missing.check, missing.look):
        with pytest.raises(
            StorageError, match=r"-x: there is no such queue: set TUNELINE_QUEUE to .* \(.*NonExist.*\)$"
        ):
            ask()
    aws.queue().check()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("arn:aws:sqs:eu-central-1:1:landing", "is no address of a queue"), ("s3://landing/rows", "is no address of a queue"),
        ("https://sqs.eu-central-1.amazonaws.com", "is no address of a queue"), ("https://[a/b", "is no address of a queue"),
        ("https://u:secret@host/1/q", "holds credentials"), ("https://a b/1/q", "is no address: mend TUNELINE_QUEUE"),
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_said_at_once(url: str, says: str) -> None:
    with pytest.raises(StorageError, match=says) as caught:
        Queue.open(url, amazon.KEYS)
    assert "secret" not in str(caught.value)


def test_the_address_says_the_region_and_a_store_of_ones_own_is_not_asked() -> None:
    url = "https://sqs.eu-central-1.amazonaws.com/1/landing"
    environ = {**amazon.KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "us-west-2"}
    meta = Queue.open(url, environ)._client.meta  # type: ignore[attr-defined]
    assert (meta.region_name, meta.endpoint_url) == ("eu-central-1", "https://sqs.eu-central-1.amazonaws.com")


def test_a_queue_may_be_behind_another_address_than_its_own(aws: Amazon) -> None:
    url = f"https://sqs.{amazon.REGION}.amazonaws.com/123456789012/{aws.bucket}"
    aws.send(told("k"))
    assert Queue.open(url, {**aws.environ, "AWS_ENDPOINT_URL_SQS": aws.endpoint}).look().files == (Landed("b", "k"),)


def test_a_server_without_tls_is_not_waited_for(aws: Amazon) -> None:
    with pytest.raises(StorageError, match=r"speaks no TLS: check the scheme of TUNELINE_QUEUE"):
        Queue.open(aws.url.replace("http:", "https:"), aws.environ).check()


@pytest.mark.parametrize(
    ("code", "status", "kind", "says"),
    [
        ("AccessDenied", 403, StorageError, "allow sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes"),
        ("InvalidClientTokenId", 403, StorageError, "the queue does not accept the credentials: check AWS_ACCESS_KEY_ID"),
        ("ExpiredToken", 403, StorageError, "the temporary credentials have expired"),
        ("RequestThrottled", 403, TransientError, "asks for fewer requests"),
        ("InternalFailure", 500, TransientError, "the queue failed: run the same command again; if it repeats, check TUNELINE"),
        ("KmsDisabled", 400, StorageError, "the queue refused, saying 'no' (KmsDisabled): check TUNELINE_QUEUE"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do_about_a_queue(code: str, status: int, kind: type[Exception], says: str) -> None:
    error = refusals.meaning(Refusal(code, status, "no"), "reading q", queue.SQS)
    assert type(error) is kind and says in str(error) and str(error).startswith("reading q: ")


def test_no_code_means_two_things() -> None:
    codes = [code for row in queue.SQS.refusals for code in row.codes]
    assert len(codes) == len(set(codes)) == 11


def test_no_answer_may_be_one_later() -> None:
    with pytest.raises(TransientError, match=r"127.0.0.1:1/1/q: no answer: check TUNELINE_QUEUE and the network"):
        Queue.open("http://127.0.0.1:1/1/q", {**amazon.KEYS, "AWS_MAX_ATTEMPTS": "1"}).look()


def test_without_credentials_it_says_which_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match="no usable credentials: set AWS_ACCESS_KEY_ID"):
        Queue.open("http://127.0.0.1:1/1/q", {}).check()


class Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_page_is_no_queue() -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(StorageError, match="what answers there is no queue: check TUNELINE_QUEUE"):
                Queue.open(f"http://127.0.0.1:{server.server_port}/1/q", amazon.KEYS).check()
        finally:
            server.shutdown()
