"""Files as immutable bytes under their own digest: each once, however many versions hold it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

from tasks.core import digest, events
from tasks.core.errors import IntegrityError
from tasks.core.manifest import FileEntry
from tasks.storage import multipart
from tasks.storage.objects import Head
from tasks.storage.store import Store

FOLDER = "blobs/"
PARALLEL = 4
LARGE_AT_ONCE = 3
"""While one begins, or waits for the store to end it, the others send."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sent:
    """Bytes that went over the wire, and bytes that the store had already."""

    uploaded_bytes: int
    reused_bytes: int


def key(sha256: str) -> str:
    return f"{FOLDER}sha256/{sha256[:2]}/{sha256}"


def measure(files: Mapping[str, Path], known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Digest and size of every file, from what is known of it or by reading it."""
    unknown = [name for name in files if name not in known]
    found = dict(zip(unknown, each(_measure, [files[name] for name in unknown]), strict=True))
    return {name: known.get(name) or found[name] for name in files}


def _measure(path: Path) -> FileEntry:
    return FileEntry(sha256=digest.of_file(path), size=path.stat().st_size)


def send(store: Store, files: Mapping[str, Path], entries: Mapping[str, FileEntry]) -> Sent:
    """Upload what the store lacks: small files several at a time, then large ones, each over several connections.

    Law: afterwards every entry's blob is there; a blob of the right size is not sent again.
    IntegrityError if a file is no longer what `entries` says of it.
    """
    blobs = {entries[name].sha256: (path, entries[name]) for name, path in files.items()}
    heads = each(lambda sha256: store.head(key(sha256)), blobs)
    missing = [
        (path, entry)
        for (path, entry), head in zip(blobs.values(), heads, strict=True)
        if head is None or head.size != entry.size
    ]
    uploaded = sum(entry.size for _, entry in missing)
    meter = Meter("uploaded", uploaded)
    small = [item for item in missing if item[1].size < multipart.PART]
    each(lambda item: store.upload(key(item[1].sha256), *item, meter.add), small, meter)
    large = [item for item in missing if item[1].size >= multipart.PART]
    each(lambda item: store.upload(key(item[1].sha256), *item, meter.add), large, meter, LARGE_AT_ONCE)
    return Sent(uploaded, sum(entry.size for _, entry in blobs.values()) - uploaded)


def fetch(store: Store, name: str, entry: FileEntry, target: Path, progress: Callable[[int], None]) -> None:
    """Stream one blob into a new file, hashing on the way. IntegrityError as `stream`."""
    chunks = stream(store, name, entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            progress(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def stream(store: Store, name: str, entry: FileEntry) -> Iterator[bytes]:
    """A blob's bytes, a chunk at a time.

    Law: the iteration ends only if they were the entry's; else IntegrityError, naming the file and the blob.
    """
    sha256 = hashlib.sha256()
    for chunk in store.chunks(key(entry.sha256), find(store, name, entry)):
        sha256.update(chunk)
        yield chunk
    if sha256.hexdigest() != entry.sha256:
        raise _broken(store, name, key(entry.sha256), "was altered: its digest is another")


def find(store: Store, name: str, entry: FileEntry) -> Head:
    """The blob as the store shows it; IntegrityError, naming the file, if it is missing or of another size."""
    head = store.head(key(entry.sha256))
    if head is None:
        raise _broken(store, name, key(entry.sha256), "is missing")
    if head.size != entry.size:
        raise _broken(store, name, key(entry.sha256), f"has {head.size} bytes instead of {entry.size}")
    return head


def check(store: Store, files: Mapping[str, FileEntry]) -> None:
    """IntegrityError unless the blob of every file is there in its size; its bytes are not read."""
    each(lambda item: find(store, *item), files.items())


def _broken(store: Store, name: str, blob: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{name}: its blob {store.at(blob)} {what}. Restore that object from a backup, or pull another version"
    )


class Abandoned(Exception):
    """Ends a transfer that is still running after another one of its batch failed; never leaves `each`."""


class Meter:
    """Counts the bytes of a batch of transfers for whoever watches, and ends them when the batch has failed."""

    def __init__(self, what: str, total: int) -> None:
        self._unit, self._name = (10**6, f"{what} MB") if total >= 10**7 else (10**3, f"{what} kB")
        self._total = total
        self._done = 0
        self._stopped = False
        self._lock = Lock()

    def add(self, count: int) -> None:
        with self._lock:
            if self._stopped:
                raise Abandoned
            self._done += count
            events.progress(self._name, self._done // self._unit, self._total // self._unit)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True


def each(
    work: Callable[[Item], Result], items: Iterable[Item], meter: Meter | None = None, at_once: int = PARALLEL
) -> list[Result]:
    """`work` on every item, a few at a time; results in order.

    Law: the first failure, or an interrupt, ends it: what waits never starts, what counts on `meter` stops.
    """
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            if meter:
                meter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
