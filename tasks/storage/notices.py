"""What a bucket says of itself, as it lies in a queue: S3's notifications, plain or in an envelope of SNS.

Pure. Source: Amazon S3 User Guide, "Event message structure"; Amazon SNS Developer Guide, "Parsing message formats".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import unquote_plus

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, TypeAdapter, ValidationError

CREATED = "ObjectCreated:"
"""How the names of all events begin that bring bytes: Put, Post, Copy, CompleteMultipartUpload."""


@dataclass(frozen=True)
class Landed:
    """An object that was written."""

    bucket: str
    key: str


class _Part(BaseModel):
    """S3 adds fields from version to version: what is not asked for is not looked at."""

    model_config = ConfigDict(frozen=True)


def _plain(key: str) -> str:
    """S3 writes keys as a form does: a space as `+`, a plus as `%2B`, other bytes of UTF-8 as `%C3`."""
    return unquote_plus(key, errors="strict")


class _Object(_Part):
    key: Annotated[str, Field(min_length=1), AfterValidator(_plain)]


class _Bucket(_Part):
    name: Annotated[str, Field(min_length=1)]


class _S3(_Part):
    bucket: _Bucket
    object: _Object


class _Record(_Part):
    event: Annotated[str, Field(alias="eventName")]
    s3: _S3

    def landed(self) -> Landed | None:
        # Stores other than Amazon's write "s3:ObjectCreated:Put".
        created = self.event.removeprefix("s3:").startswith(CREATED)
        return Landed(self.s3.bucket.name, self.s3.object.key) if created else None


class _Notification(_Part):
    Records: Annotated[tuple[_Record, ...], Field(min_length=1)]


class _Test(_Part):
    """S3 sends it when a notification is set up."""

    Event: Literal["s3:TestEvent"]


class _Envelope(_Part):
    Type: Literal["Notification"]
    Message: Json[_Notification | _Test]


_MESSAGE: TypeAdapter[_Notification | _Test | _Envelope] = TypeAdapter(_Notification | _Test | _Envelope)


def read(body: str) -> tuple[Landed, ...] | None:
    """The objects that a message says were written, in its order; none where it tells of something else.

    None in place of them: the message is no notification of S3's.
    """
    try:
        found = _MESSAGE.validate_json(body)
    except ValidationError:
        return None
    inner = found.Message if isinstance(found, _Envelope) else found
    if isinstance(inner, _Test):
        return ()
    return tuple(landed for record in inner.Records if (landed := record.landed()))
