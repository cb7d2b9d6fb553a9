"""A version as a plain folder on S3, copied by the store itself: what vLLM, SageMaker or `aws s3 cp` reads.

s3://BUCKET/PREFIX/<path of each file>
s3://BUCKET/PREFIX/tuneline.json         which version this is, and every digest: written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.core.errors import ConflictError, IntegrityError, ParamsError
from tasks.core.manifest import FileEntry
from tasks.storage import blobs
from tasks.storage.model_version import Version
from tasks.storage.objects import Item
from tasks.storage.store import Store

MANIFEST = "tuneline.json"


@dataclass(frozen=True)
class Materialized:
    """Files that were copied now, and files that lay there already, equal."""

    copied: int
    found: int


def materialize(source: Store, version: Version, part: str | None, target: Store) -> Materialized:
    """Make the target the version, or one part of it without the part's own folder.

    Laws: the target says that it is the version only when every file is there; nothing that lies there is replaced;
    a second call after a broken one copies what is missing, and after a whole one nothing.
    ParamsError: no such part, or other files lie there. ConflictError: a file there has other bytes.
    IntegrityError: a blob is missing. The store copies bytes unread: `models verify` reads them.
    """
    files = version.select(part)
    said = _manifest(source, version, part, files)
    there = {item.key: item for item in target.items("")}
    _check(source, target, version, files, there)
    if MANIFEST in there and target.whole(MANIFEST) != said:
        raise ConflictError(f"{target.url} holds another version, or another part: {_elsewhere()}")
    blobs.check(source, files)
    meter = blobs.Meter("copied", sum(entry.size for entry in files.values()))

    def place(path: str) -> bool:
        copied = path not in there
        if copied:
            source.copy(blobs.key(files[path].sha256), files[path].size, target, path)
        _compare(source, path, files[path], target)
        meter.add(files[path].size)
        return copied

    copied = sum(blobs.each(place, files, meter))
    if MANIFEST not in there:
        _finish(target, said)
    return Materialized(copied, len(files) - copied)


def _elsewhere() -> str:
    return "choose another prefix, or remove it first"


def _manifest(source: Store, version: Version, part: str | None, files: Mapping[str, FileEntry]) -> bytes:
    value = {
        "version": version.reference,
        "registry": source.url,
        "identity": version.identity,
        "part": part,
        "files": {path: files[path].model_dump() for path in sorted(files)},
    }
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _check(
    source: Store, target: Store, version: Version, files: Mapping[str, FileEntry], there: Mapping[str, Item]
) -> None:
    if f"{target.url}/".startswith(f"{source.url}/"):
        raise ParamsError(f"{target.url} lies within the registry: choose another prefix")
    if MANIFEST in files:
        raise ParamsError(f"{version.reference} has a file {MANIFEST} of its own: choose one part of it, with --part")
    if foreign := sorted(there.keys() - files.keys() - {MANIFEST}):
        raise ParamsError(f"{target.url} holds other files ({foreign[0]}): {_elsewhere()}")


def _compare(source: Store, path: str, entry: FileEntry, target: Store) -> None:
    """The file has the blob's size and entity tag; where tags differ, as multipart uploads' do, it is read and hashed."""
    head, blob = target.head(path), source.head(blobs.key(entry.sha256))
    if head is None or blob is None:
        raise IntegrityError(f"{target.at(path)} was removed meanwhile: run the same command again")
    if head.size == entry.size and head.etag == blob.etag:
        return
    sha256 = hashlib.sha256()
    for chunk in target.chunks(path, head):
        sha256.update(chunk)
    if (head.size, sha256.hexdigest()) != (entry.size, entry.sha256):
        raise ConflictError(f"{target.at(path)} has other bytes: {_elsewhere()}")


def _finish(target: Store, said: bytes) -> None:
    try:
        target.create(MANIFEST, said)
    except ConflictError:
        if target.whole(MANIFEST) != said:
            raise
