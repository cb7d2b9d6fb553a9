"""What a store says of its objects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Head:
    """What the store says about an object: size in bytes and entity tag."""

    size: int
    etag: str


@dataclass(frozen=True)
class Item:
    """An object as a listing names it: its key, size in bytes, entity tag, and when it was written by the store's clock."""

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Content:
    """A small object, whole, with the entity tag that `replace` wants."""

    data: bytes
    etag: str
