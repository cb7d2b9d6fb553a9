"""A queue of Amazon's SQS that a bucket tells what lands in it. Messages stay until what they say has been handed on.

`TUNELINE_QUEUE` is its URL; credentials are the usual `AWS_*` variables. At least once: whoever is told lists the
landing place again, so that a message which comes twice costs nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from tasks.core.errors import StorageError, TransientError
from tasks.storage import notices, refusals, store
from tasks.storage.notices import Landed
from tasks.storage.refusals import row

VARIABLE = "TUNELINE_QUEUE"
LONG_POLL = 20
"""Seconds for which one request may wait: the most that SQS allows."""
SETTLE = 1
"""Seconds without a further message that end a look. SQS asks all of its servers only if a request may wait."""
LOOK_SECONDS = 10.0
"""After so long a look ends though more arrives: what it has received must be deleted before it is visible again."""
BATCH = 10
NO_QUEUE = f"what answers there is no queue: check {VARIABLE}"

SQS = refusals.Service(
    "queue", VARIABLE,
    refusals=(
        row(
            StorageError, "AWS.SimpleQueueService.NonExistentQueue QueueDoesNotExist NonExistentQueue InvalidAddress",
            f"there is no such queue: set {VARIABLE} to the URL of one that exists (Terraform prints landing_queue_url)",
        ),
        row(
            StorageError, "AccessDenied AccessDeniedException",
            "access denied: allow sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes for the identity of "
            "AWS_ACCESS_KEY_ID, as the role `ingester` has them",
        ),
        row(
            StorageError,
            "InvalidAccessKeyId SignatureDoesNotMatch InvalidClientTokenId UnrecognizedClientException InvalidSecurity",
            "the queue does not accept the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and "
            f"AWS_SESSION_TOKEN, if they are temporary), and that AWS_REGION is the region of {VARIABLE}",
        ),
    ),
    unanswered=(
        row(
            StorageError, "SSLError",
            f"the server's certificate is not trusted, or it speaks no TLS: check the scheme of {VARIABLE}, or set "
            "AWS_CA_BUNDLE to the certificate of its authority",
        ),
        # A store that is not there is a wrong address; a queue that is waited for all day comes back.
        row(
            TransientError, "ConnectionError HTTPClientError IncompleteReadError HTTPError",
            f"no answer: check {VARIABLE} and the network",
        ),
        row(StorageError, "ValueError", f"that is no address: mend {VARIABLE} (or AWS_ENDPOINT_URL_SQS)"),
        row(StorageError, "ResponseParserError", NO_QUEUE),
    ),
)  # fmt: skip

_AMAZON = re.compile(r"sqs(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


@dataclass(frozen=True)
class Look:
    """What lay in the queue: the objects that landed, each once; the ids of messages that are no notifications."""

    files: tuple[Landed, ...] = ()
    foreign: tuple[str, ...] = ()
    handles: tuple[str, ...] = field(default=(), repr=False)


class _Client(Protocol):
    def receive_message(self, **asked: Any) -> Mapping[str, Any]: ...
    def delete_message_batch(self, **asked: Any) -> Mapping[str, Any]: ...
    def get_queue_attributes(self, **asked: Any) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Queue:
    """Every method raises StorageError (credentials, permission, no such queue) or TransientError (no answer, throttling)."""

    url: str
    _client: _Client = field(repr=False, compare=False)

    @classmethod
    def open(cls, url: str, environ: Mapping[str, str]) -> Queue:
        """The queue of that URL. Asks the network nothing: the first request does."""
        endpoint, region = _place(url)
        where = f"opening {url}"
        try:
            with store.asking(where, SQS):
                return cls(url, store.connect("sqs", environ, environ.get("AWS_ENDPOINT_URL_SQS") or endpoint, region))
        except ValueError as error:  # boto3's word for an endpoint that is none
            raise refusals.unanswered(error, where, SQS) from None

    def check(self) -> None:
        """Whether a queue answers there, and to us."""
        with self._asking("looking at"):
            answer = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        if "QueueArn" not in answer.get("Attributes", {}):  # a web server that says 200 to everything
            raise StorageError(f"looking at {self.url}: {NO_QUEUE}")

    def look(self, wait: int = SETTLE) -> Look:
        """All that lies in the queue; if nothing does, what comes within `wait` seconds. What is seen stays, invisible for
        as long as the queue is set to, until it is deleted."""
        found: dict[str, Mapping[str, Any]] = {}
        batch, end = self._receive(wait), time.monotonic() + LOOK_SECONDS
        while any(message["MessageId"] not in found for message in batch):
            found |= {message["MessageId"]: message for message in batch}
            if time.monotonic() > end:
                break
            try:
                batch = self._receive(SETTLE)
            except TransientError:
                break  # what was received counts; the next look meets the same error, or none
        return _sorted_out(found)

    def delete(self, look: Look) -> None:
        """Its notifications. Law: deleting twice is deleting once, and foreign messages stay."""
        for start in range(0, len(look.handles), BATCH):
            entries = [
                {"Id": str(place), "ReceiptHandle": handle}
                for place, handle in enumerate(look.handles[start : start + BATCH])
            ]
            # An entry that fails alone has been seen anew meanwhile: it comes again.
            with self._asking("deleting from"):
                self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)

    def _receive(self, wait: int) -> Sequence[Mapping[str, Any]]:
        with self._asking("reading"):
            answer = self._client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait)
            return answer.get("Messages", ())

    def _asking(self, doing: str) -> AbstractContextManager[None]:
        return store.asking(f"{doing} {self.url}", SQS)


def _sorted_out(messages: Mapping[str, Mapping[str, Any]]) -> Look:
    read = {name: notices.read(message["Body"]) for name, message in messages.items()}
    files = (landed for told in read.values() for landed in told or ())
    return Look(
        files=tuple(dict.fromkeys(files)),
        foreign=tuple(name for name, told in read.items() if told is None),
        handles=tuple(messages[name]["ReceiptHandle"] for name, told in read.items() if told is not None),
    )


def _place(url: str) -> tuple[str, str]:
    """Endpoint and region of a queue's URL; the region of one that is not Amazon's is left to the environment.

    StorageError: it is none, or there are credentials in it, which the message does not repeat.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that begins no IPv6 address
        parts = urlsplit("")
    if "@" in parts.netloc:
        raise StorageError(
            f"the queue's address holds credentials: take them out of {VARIABLE}, "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme not in ("https", "http") or not parts.hostname or not parts.path.strip("/") or parts.query:
        raise StorageError(
            f"{url!r} is no address of a queue: set {VARIABLE} to its URL, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
        )
    amazon = _AMAZON.fullmatch(parts.hostname)
    return f"{parts.scheme}://{parts.netloc}", amazon[1] if amazon else ""
