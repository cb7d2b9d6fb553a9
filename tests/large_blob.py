"""One blob of four parts, and somebody else's client that looks at its uploads and meddles with them."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass

from mypy_boto3_s3.client import S3Client

from tasks.core.manifest import FileEntry
from tasks.storage import blobs
from tasks.storage.multipart import PART
from tasks.storage.registry import Registry
from tests.faulty_store import Proxy

DATA = os.urandom(3 * PART + 1000)
ENTRY = FileEntry(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
KEY = blobs.key(ENTRY.sha256)
SLICES = {number + 1: DATA[number * PART : (number + 1) * PART] for number in range(4)}
PARTS = set(SLICES)


@dataclass
class Open:
    """The uploads of the blob that are open, seen and changed by somebody else's client."""

    client: S3Client
    bucket: str
    key: str

    def begin(self, parts: dict[int, bytes], key: str = "") -> str:
        where = {"Bucket": self.bucket, "Key": key or self.key}
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        for number, data in parts.items():
            self.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=data)
        return upload

    def ids(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key).get("Uploads", [])
        return [item["UploadId"] for item in found if "UploadId" in item]

    def numbers(self) -> set[int]:
        """Of the parts that the one open upload has."""
        [upload] = self.ids()
        found = self.client.list_parts(Bucket=self.bucket, Key=self.key, UploadId=upload).get("Parts", [])
        return {part["PartNumber"] for part in found if "PartNumber" in part}

    def settled(self) -> set[int]:
        """The same once nothing is on its way any more that a killed sender had sent."""
        seen, found = None, self.numbers()
        while seen != found:
            time.sleep(0.5)
            seen, found = found, self.numbers()
        return found

    def abort(self) -> None:
        for upload in self.ids():
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload)


def sent(proxy: Proxy) -> list[int]:
    found = [re.search(r"partNumber=(\d+)", path) for method, path, _ in proxy.seen if method == "PUT"]
    return sorted(int(match[1]) for match in found if match)


def is_part(path: str, number: int) -> bool:
    return re.search(rf"partNumber={number}(&|$)", path) is not None


def is_end(method: str, path: str) -> bool:
    return method == "POST" and "uploadId=" in path


def assert_whole(registry: Registry) -> None:
    assert b"".join(blobs.stream(registry.store, "weights", ENTRY)) == DATA
