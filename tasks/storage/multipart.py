"""Large objects in parallel parts; whoever comes after a killed sender sends only the parts that are missing.

An upload that a killed sender left open is found by its key. Keys are digests here, so a part of it is either the file's
own bytes or nothing: each part is compared, by the checksum that the store lists, with the bytes that were read just now, and
one that does not fit is sent anew. Two senders may share an upload: they send equal parts, one ends it, the other finds the
object there.
"""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.core.errors import IntegrityError
from tasks.storage import refusals
from tasks.storage.outgoing import Outgoing

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef

PART = 8 * 2**20
PARTS = 9_000
"""S3 allows 10,000 parts an upload, so larger files get larger parts."""
SENDERS = 4
AHEAD = SENDERS + 1
"""Parts of one file that are in memory at once: those being sent, and the one being read."""
TRIES = 3
"""For a sender under whose feet somebody ends uploads."""
LOST = frozenset({refusals.UPLOAD_GONE, "InvalidPart"})
"""Codes of an upload that somebody else ended, or of which somebody replaced a part."""
UNLISTED = frozenset({"AccessDenied", "403", "NotImplemented", "501", "MethodNotAllowed", "405"})
"""Codes of a store that lists no uploads, or not for us: then nothing is gone on with."""


def size_of_part(size: int) -> int:
    """Bytes of every part but the last. Law: the same for every sender of a file, else none could go on for another."""
    return max(PART, math.ceil(size / PARTS))


def send(client: S3Client, bucket: str, key: str, outgoing: Outgoing) -> None:
    """Make the object of a file that is not empty, going on with an upload that was left open.

    Laws: the object appears whole, by one request, after every byte of it was read and found to be the file's entry; killed
    or refused before, what was sent is kept for the next sender. IntegrityError: the file changed; nothing is kept then.
    """
    for tries_left in reversed(range(TRIES)):
        upload = _open(client, bucket, key) or _begin(client, bucket, key)
        try:
            return upload.finish(outgoing)
        except client.exceptions.ClientError as error:
            if _code(error) not in LOST:
                raise
            if _stands(client, bucket, key, outgoing.entry.size):
                return None
            if not tries_left:
                raise
        except IntegrityError:
            with suppress(client.exceptions.ClientError):  # it goes by itself within days
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload.id)
            raise
    return None


def abort(client: S3Client, bucket: str, prefix: str, before: datetime) -> int:
    """Drop the uploads that began before a moment and never ended; how many."""
    count = 0
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Uploads", ()):
            if "Key" in item and "UploadId" in item and "Initiated" in item and item["Initiated"] < before:
                client.abort_multipart_upload(Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"])
                count += 1
    return count


@dataclass(frozen=True)
class _Upload:
    """One upload that is open; `there` are the parts that the store has of it, by number."""

    client: S3Client
    bucket: str
    key: str
    id: str
    there: Mapping[int, PartTypeDef] = field(default_factory=dict[int, "PartTypeDef"])

    def finish(self, outgoing: Outgoing) -> None:
        """Read the whole file, send what is not there, and end the upload with exactly those parts."""
        parts = self._parts(outgoing)
        self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=self.key, UploadId=self.id, MultipartUpload={"Parts": parts}
        )

    def _parts(self, outgoing: Outgoing) -> list[CompletedPartTypeDef]:
        parts: list[CompletedPartTypeDef] = []
        waiting: deque[Future[CompletedPartTypeDef]] = deque()
        with ThreadPoolExecutor(SENDERS) as pool:
            try:
                for number, data in enumerate(outgoing.parts(size_of_part(outgoing.entry.size)), start=1):
                    waiting.append(pool.submit(self._part, number, data))
                    if len(waiting) == AHEAD:
                        parts.append(waiting.popleft().result())
                return [*parts, *(future.result() for future in waiting)]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _part(self, number: int, data: bytes) -> CompletedPartTypeDef:
        checksum = base64.b64encode(zlib.crc32(data).to_bytes(4)).decode()
        there = self.there.get(number)
        if there is not None and _is(there, data, checksum):
            return {"PartNumber": number, "ETag": there.get("ETag", ""), "ChecksumCRC32": checksum}
        answer = self.client.upload_part(
            Bucket=self.bucket, Key=self.key, UploadId=self.id, PartNumber=number, Body=data, ChecksumCRC32=checksum
        )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": checksum}


def _is(there: PartTypeDef, data: bytes, checksum: str) -> bool:
    """Whether a part that the store has is these bytes: by CRC32 where it lists one, else by the MD5 that its entity tag is
    with most; another kind of tag equals none, so that such a part is sent again."""
    if there.get("Size") != len(data):
        return False
    if listed := there.get("ChecksumCRC32"):
        return listed == checksum
    return there.get("ETag", "").strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _begin(client: S3Client, bucket: str, key: str) -> _Upload:
    answer = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="CRC32")
    return _Upload(client, bucket, key, answer["UploadId"])


def _open(client: S3Client, bucket: str, key: str) -> _Upload | None:
    """The newest upload of the key that somebody has left open, or has open now."""
    found = _listed(client, lambda: list(_uploads(client, bucket, key)))
    for _, upload in sorted(found or (), reverse=True):
        there = _listed(client, lambda upload=upload: list(_there(client, bucket, key, upload)))
        if there is not None:
            return _Upload(client, bucket, key, upload, {part.get("PartNumber", 0): part for part in there})
    return None


def _listed(client: S3Client, ask: Callable[[], list[Any]]) -> list[Any] | None:
    """None where the store does not list it: the upload has ended meanwhile, or we may not look."""
    try:
        return ask()
    except client.exceptions.ClientError as error:
        if _code(error) in UNLISTED | LOST:
            return None
        raise


def _uploads(client: S3Client, bucket: str, key: str) -> Iterator[tuple[datetime, str]]:
    """Those of this very key that take the checksums which we send."""
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key):
        for item in page.get("Uploads", ()):
            ours = item.get("Key") == key and item.get("ChecksumAlgorithm", "CRC32") == "CRC32"
            if ours and "UploadId" in item and "Initiated" in item:
                yield item["Initiated"], item["UploadId"]


def _there(client: S3Client, bucket: str, key: str, upload: str) -> Iterator[PartTypeDef]:
    for page in client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload):
        yield from page.get("Parts", ())


def _stands(client: S3Client, bucket: str, key: str, size: int) -> bool:
    """Whether somebody else's upload of the same bytes was first; or our own, whose answer was lost."""
    try:
        return client.head_object(Bucket=bucket, Key=key)["ContentLength"] == size
    except client.exceptions.ClientError as error:
        if _code(error) in refusals.MISSING:
            return False
        raise


def _code(error: Any) -> str:
    """Of a ClientError, whose class is known to the client alone."""
    return str(error.response.get("Error", {}).get("Code", ""))
