"""Where a store is: `s3://BUCKET/PREFIX`, and an endpoint that may be shown to anybody."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tasks.core.errors import StorageError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9_.=-]+")


def split(url: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://BUCKET/PREFIX`; the prefix may be empty.

    StorageError for anything else, above all for credentials in it, which the message does not repeat.
    Law: `split(f"s3://{bucket}/{prefix}") == (bucket, prefix)` for whatever it returned.
    """
    if "@" in url:
        raise StorageError(
            "the registry's address holds credentials: take them out of TUNELINE_REGISTRY, "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    bucket, _, path = url.removeprefix("s3://").partition("/")
    prefix = path.strip("/")
    if not url.startswith("s3://") or not _BUCKET.fullmatch(bucket) or not (prefix == "" or _plain(prefix)):
        raise StorageError(
            f"{url!r} is no address of a store: set TUNELINE_REGISTRY to s3://BUCKET/PREFIX, the bucket with "
            "3 to 63 lower-case letters, digits, dots or hyphens, the prefix with letters, digits and . _ = -"
        )
    return bucket, prefix


def _plain(prefix: str) -> bool:
    return all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in prefix.split("/"))


def without_secrets(endpoint: str) -> str:
    """Scheme, host and port of an endpoint: a password or token in it stays out of messages."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "an endpoint without a host"
