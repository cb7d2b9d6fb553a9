"""One S3 prefix: bytes by key, conditional writes, files by content. The only module that knows boto3: clients of other
services of Amazon are made here, too, and what they raise is translated here.

The address is `s3://BUCKET/PREFIX`; endpoint, region and credentials are the usual `AWS_*` variables of the
environment that `Store.open` is given, and what that lacks boto3 looks for where it always does (profiles,
roles). Botocore retries throttling and broken connections a bounded number of times; what is left becomes
one error of `tasks.core.errors` that names the object, the endpoint and the variable to look at.
"""

from __future__ import annotations

import base64
import hashlib
import math
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tasks.core.errors import ConflictError, IntegrityError, StorageError
from tasks.core.manifest import FileEntry
from tasks.storage import address, conditions, multipart, refusals
from tasks.storage.conditions import Conditions
from tasks.storage.objects import Content, Head, Item
from tasks.storage.outgoing import Outgoing
from tasks.storage.refusals import Refusal

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CopySourceTypeDef

Answer = TypeVar("Answer")
Progress = Callable[[int], None]

AMAZON = "Amazon S3"
FIRST_REGION = "us-east-1"
ATTEMPTS = 5
SMALL = 16 * 2**20
"""Bytes that one answer may hold in memory: no manifest, alias or log entry comes near."""
CHUNK = 2**20
COPIED_AT_ONCE = 2**30
"""Bytes that a store copies in one request; S3 does so up to 5 GB."""


@dataclass(frozen=True)
class Store:
    """Objects below one prefix of one bucket. Keys are relative to the prefix.

    Every method raises StorageError (credentials, permission, bucket, address, clock), TransientError
    (throttling, broken connection) or ResourceError (the store is full). Threads may share a store.
    """

    bucket: str
    prefix: str
    endpoint: str
    _client: S3Client = field(repr=False, compare=False)

    @classmethod
    def open(cls, url: str, environ: Mapping[str, str]) -> Store:
        """The store at `s3://BUCKET/PREFIX`. Asks the network nothing: the first request does."""
        bucket, prefix = address.split(url)
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None
        shown = address.without_secrets(endpoint) if endpoint else AMAZON
        try:
            return cls(bucket, prefix, shown, _connect(environ, endpoint))
        except (boto.BotoCoreError, ValueError) as error:
            raise refusals.unanswered(error, f"opening {url} at {shown}") from None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def at(self, key: str) -> str:
        """The object's address, for messages."""
        return f"{self.url}/{key}"

    def get(self, key: str, limit: int = SMALL) -> Content | None:
        """A small object, or None where there is none; IntegrityError above `limit` bytes."""
        with self._asking("reading", key):
            answer = _found(lambda: self._client.get_object(Bucket=self.bucket, Key=self._full(key)))
            if answer is None:
                return None
            with answer["Body"] as body:
                data = body.read(limit + 1)
            if len(data) < (size := min(answer["ContentLength"], limit + 1)):  # botocore checks whole reads alone
                raise boto.IncompleteReadError(actual_bytes=len(data), expected_bytes=size)
            if len(data) > limit:
                what = f"{self.at(key)} has more than {limit} bytes: tuneline wrote no such object"
                raise IntegrityError(f"{what}; restore it from a backup")
            return Content(data, _etag(answer))

    def whole(self, key: str) -> bytes:
        """A small object that was there a moment ago; IntegrityError where it is gone."""
        content = self.get(key)
        if content is None:
            raise IntegrityError(f"{self.at(key)} was removed meanwhile: restore it from a backup")
        return content.data

    def head(self, key: str) -> Head | None:
        """Size and entity tag, or None where there is no object."""
        with self._asking("looking at", key):
            answer = _found(lambda: self._client.head_object(Bucket=self.bucket, Key=self._full(key)))
            return answer and Head(answer.get("ContentLength", 0), _etag(answer))

    def items(self, prefix: str) -> Iterator[Item]:
        """Every object whose key begins with `prefix`, in the store's order."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._asking("listing", prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full(prefix)):
                for item in page.get("Contents", ()):
                    key = item.get("Key", "").removeprefix(self._full(""))
                    modified = item.get("LastModified", datetime.now(UTC))  # without a date it counts as new
                    yield Item(key, item.get("Size", 0), item.get("ETag", ""), modified)

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that begins with `prefix`, in the store's order."""
        return (item.key for item in self.items(prefix))

    def folders(self, prefix: str) -> Iterator[str]:
        """The names right below `prefix` (which ends with `/`) that have something below them."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._asking("listing", prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full(prefix), Delimiter="/"):
                for item in page.get("CommonPrefixes", ()):
                    yield item.get("Prefix", "").removeprefix(self._full(prefix)).rstrip("/")

    def put(self, key: str, data: bytes) -> str:
        """Write, whatever was there before; the new entity tag."""
        with self._asking("writing", key):
            return self._put(key, data)

    def create(self, key: str, data: bytes) -> str:
        """Write where nothing is; the new entity tag. ConflictError when something is there already.

        Law: of all `create`s of one key exactly one returns, even if its first answer was lost on the way.
        """
        return self._put_if(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Write where `etag` still stands; the new entity tag. ConflictError when it does not.

        Law: of all `replace`s of one entity tag exactly one returns, even if its first answer was lost.
        """
        return self._put_if(key, data, IfMatch=etag)

    def delete(self, key: str) -> None:
        """Law: deleting twice is deleting once."""
        with self._asking("deleting", key):
            self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def upload(self, key: str, path: Path, entry: FileEntry, progress: Progress = lambda _: None) -> None:
        """Send a file, in parallel parts if it is large; the store checks each part's SHA-256.

        Law: bytes other than `entry` says never become visible under `key`: IntegrityError instead.
        `progress` is told the bytes read since it was last told; fewer than none where they are read again.
        """
        with path.open("rb") as file, self._asking("sending", key):
            outgoing = Outgoing(file, path, entry, progress)
            if entry.size < multipart.PART:
                self._put(key, b"".join(outgoing.parts(multipart.PART)))
            else:
                multipart.send(self._client, self.bucket, self._full(key), outgoing)

    def copy(self, key: str, size: int, target: Store, target_key: str) -> None:
        """Let the store itself copy an object to another prefix or bucket of its own, in parts if it is very large."""
        source: CopySourceTypeDef = {"Bucket": self.bucket, "Key": self._full(key)}
        part = max(COPIED_AT_ONCE, math.ceil(size / multipart.PARTS))
        config = TransferConfig(multipart_threshold=COPIED_AT_ONCE + 1, multipart_chunksize=part, max_concurrency=4)
        with target._asking(f"copying {self.at(key)} to", target_key):
            target._client.copy(source, target.bucket, target._full(target_key), Config=config)

    def chunks(self, key: str, head: Head) -> Iterator[bytes]:
        """The object's bytes, a chunk at a time; a broken connection goes on where it broke.

        Law: all chunks come from the one object that `head` describes: ConflictError if it was replaced or removed
        meanwhile.
        """
        offset = failures = 0
        with self._asking("reading", key):
            while offset < head.size and failures < ATTEMPTS:
                failures += 1
                answer = self._client.get_object(
                    Bucket=self.bucket, Key=self._full(key), IfMatch=head.etag, Range=f"bytes={offset}-"
                )
                try:
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        offset, failures = offset + len(chunk), 0
                        yield chunk
                except (boto.HTTPClientError, boto.IncompleteReadError):
                    if failures == ATTEMPTS:
                        raise
                finally:
                    answer["Body"].close()

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        """Drop the invisible parts of uploads that began before a moment and never ended; how many uploads."""
        with self._asking("clearing unfinished uploads of", prefix):
            return multipart.abort(self._client, self.bucket, self._full(prefix), before)

    def ensure_bucket(self) -> None:
        """Create the bucket if it is missing. Law: twice is once."""
        with self._asking("looking for the bucket of", ""):
            if _found(lambda: self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1), "NoSuchBucket"):
                return
        with self._asking("creating the bucket of", ""):
            _found(lambda: self._client.create_bucket(Bucket=self.bucket, **self._place()), "BucketAlreadyOwnedByYou")

    def probe_conditional_writes(self) -> Conditions:
        """Try on a scratch object, removed afterwards, whether the store honours If-None-Match and If-Match."""
        return conditions.probe(self)

    def _place(self) -> dict[str, Any]:
        """Amazon wants the region of a new bucket named, unless it is the oldest one."""
        region = self._client.meta.region_name
        if self.endpoint != AMAZON or region == FIRST_REGION:
            return {}
        return {"CreateBucketConfiguration": {"LocationConstraint": region}}

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, key: str, data: bytes, **more: Any) -> str:
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        answer = self._client.put_object(
            Bucket=self.bucket, Key=self._full(key), Body=data, ChecksumSHA256=checksum, **more
        )
        return _etag(answer)

    def _put_if(self, key: str, data: bytes, **condition: str) -> str:
        writer = uuid.uuid4().hex
        with self._asking("writing", key):
            try:
                return self._put(key, data, Metadata={"writer": writer}, **condition)
            except boto.ClientError as error:
                if _refusal(error).code not in refusals.LOST:
                    raise
            # Botocore asks again when an answer is lost, and is then refused because of its own success.
            answer = _found(lambda: self._client.head_object(Bucket=self.bucket, Key=self._full(key)))
            if answer and answer["Metadata"].get("writer") == writer:
                return _etag(answer)
        raise ConflictError(f"{self.at(key)} was written by somebody else first: read it again, then decide")

    def _asking(self, doing: str, key: str) -> AbstractContextManager[None]:
        return asking(f"{doing} {self.at(key)} at {self.endpoint}")


@contextmanager
def asking(where: str, of: refusals.Service = refusals.STORE) -> Generator[None]:
    """Whatever goes wrong with a request in the block is one error of ours that begins with `where`."""
    try:
        yield
    except boto.ClientError as error:
        raise refusals.meaning(_refusal(error), where, of) from None
    except (boto.BotoCoreError, ResponseParserError, HTTPError) as error:
        raise refusals.unanswered(error, where, of) from None


def _etag(answer: Mapping[str, Any]) -> str:
    """Every S3 store sends one; a web server that says 200 to everything does not."""
    if not (etag := answer.get("ETag")):
        raise ResponseParserError("no ETag")
    return etag


def _found(ask: Callable[[], Answer], *absent: str) -> Answer | None:
    """The answer, or None where the store's refusal is one of `absent`: the codes of a missing object by default."""
    try:
        return ask()
    except boto.ClientError as error:
        if _refusal(error).code in (absent or refusals.MISSING):
            return None
        raise


def _refusal(error: boto.ClientError) -> Refusal:
    answer: Mapping[str, Any] = error.response
    said: Mapping[str, Any] = answer.get("Error", {})
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return Refusal(str(said.get("Code") or status), status, str(said.get("Message", "")))


def _connect(environ: Mapping[str, str], endpoint: str | None) -> S3Client:
    client: S3Client = connect(
        "s3", environ, endpoint,
        # Servers other than Amazon's answer at one address, without a host name for each bucket.
        s3={"addressing_style": "path" if endpoint else "auto"},
        # We send SHA-256 ourselves; the CRC trailers that botocore adds are unknown to older servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )  # fmt: skip
    client.meta.events.register("needs-retry.s3.PutObject", cast("Callable[..., None]", _wait_for_other_writer))
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-sign.s3.{operation}", cast("Callable[..., None]", _sign_checksum_alone))
    return client


def connect(service: str, environ: Mapping[str, str], endpoint: str | None, region: str = "", **config: Any) -> Any:
    """A client of one of Amazon's services, in `region` or, without one, where the environment says.

    Typed loosely: the stubs know no service whose name is a variable.
    """
    session: Any = boto3.Session(
        profile_name=environ.get("AWS_PROFILE") or None,
        region_name=region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None,
    )
    retries: Any = {"mode": "standard", "total_max_attempts": _attempts(environ)}
    return session.client(
        service,
        region_name=session.region_name or FIRST_REGION,
        endpoint_url=endpoint,
        verify=environ.get("AWS_CA_BUNDLE") or None,
        config=Config(connect_timeout=10, read_timeout=30, max_pool_connections=32, retries=retries, **config),
        # Here and not to the session, which takes half a pair for none and looks elsewhere.
        aws_access_key_id=environ.get("AWS_ACCESS_KEY_ID") or None,
        aws_secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY") or None,
        aws_session_token=environ.get("AWS_SESSION_TOKEN") or None,
    )


def _attempts(environ: Mapping[str, str]) -> int:
    text = environ.get("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
    if not (text.isascii() and text.isdigit() and int(text)):
        raise StorageError(f"AWS_MAX_ATTEMPTS is {text!r}: set it to a whole number from 1, or unset it")
    return int(text)


def _sign_checksum_alone(request: Any, **_: Any) -> None:
    """The signature covers the checksum by which the store checks the body; the body is not hashed once more for it."""
    config: Config = request.context["client_config"]
    s3 = cast("Any", {**cast("Any", config).s3, "payload_signing_enabled": False})
    request.context["client_config"] = config.merge(Config(s3=s3))


def _wait_for_other_writer(attempts: int, response: tuple[Any, Any] | None, **_: Any) -> float | None:
    """Seconds until botocore asks again: Amazon wants a put that was refused with 409 repeated, botocore does not."""
    busy = response is not None and response[0].status_code == 409
    return 0.05 * 2**attempts if busy and attempts < ATTEMPTS else None
