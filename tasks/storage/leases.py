"""How those who rely on blobs and the one who removes them keep out of each other's way.

    leases/<id>.json     somebody is about to name these blobs: a publication, a promotion, a pin
    gc.json              a collector is removing what nobody names

Whoever is about to name blobs (1) writes a lease, (2) waits while gc.json stands, (3) only then looks which blobs are
there, (4) writes what names them, (5) removes the lease. The collector (1) writes gc.json, (2) reads the leases,
(3) reads what names blobs, (4) removes the rest, (5) removes gc.json.

Law: no blob is removed that is named afterwards. For a lease is there when the collector reads them, or not. If it is,
its blobs are left alone. If it is no longer, what it was written for was written before, and is read after. If it is
not yet, then gc.json was there before it, so its owner waits for the collector's end and finds what is gone missing.
The store has to be consistent (a read or a listing sees every write that ended before it began), as S3 is.

A lease ends with a day (uploads do, too), gc.json with an hour, for their owners may have been killed. A collector stops
by itself after half of that. What this leaves open: a process that is suspended for longer than the other half between
its look at the clock and its request.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from tasks.core import events
from tasks.core.errors import ConflictError, IntegrityError, StorageError, TransientError
from tasks.storage import blobs
from tasks.storage.audit import Digest
from tasks.storage.model_version import Line, Stored, parse, stated
from tasks.storage.store import Store

FOLDER = "leases/"
MARKER = "gc.json"
STALE = timedelta(days=1)
"""A publication that has not ended by then is dead: its lease and its unfinished uploads no longer count."""
COLLECTING = timedelta(hours=1)
WAIT_SECONDS = 120.0
POLL_SECONDS = 0.25


class Lease(Stored):
    """Somebody is about to name these blobs as a version of `name`, or to rely on one that does."""

    name: Line
    who: Line
    at: AwareDatetime
    blobs: tuple[Digest, ...]


class Collector(Stored):
    """Whoever collects; `id` tells two collectors of one user apart."""

    id: Line
    who: Line
    at: AwareDatetime


@contextmanager
def held(store: Store, name: str, digests: Iterable[str], now: datetime, who: str) -> Generator[None]:
    """Within the block no collector removes these blobs, nor a version of the model.

    TransientError: a collector is at work and does not end. What one removed before the block is gone: look after it began.
    """
    key = f"{FOLDER}{uuid.uuid4().hex}.json"
    lease = stated(Lease, name=name, who=who, at=now, blobs=tuple(sorted(set(digests))))
    store.create(key, lease.to_bytes())
    try:
        _wait(store, now)
        yield
    finally:
        _drop(store, key)


def _wait(store: Store, now: datetime) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    told = False
    while (found := collector(store)) and found.at > now - COLLECTING:
        if time.monotonic() > deadline:
            raise TransientError(
                f"{found.who} has been collecting garbage in {store.url} since {found.at:%Y-%m-%d %H:%M}: run the same "
                "command again when that has ended; one that was killed no longer counts an hour after it began"
            )
        if not told:
            events.note(f"waiting for the garbage collection of {found.who} to end")
        told = True
        time.sleep(POLL_SECONDS)


def collector(store: Store) -> Collector | None:
    content = store.get(MARKER)
    return content and parse(Collector, content.data, store.at(MARKER))


def standing(store: Store, now: datetime) -> list[Lease]:
    """Every lease that counts. IntegrityError: one can't be read, so that nothing may be removed."""
    recent = [item.key for item in store.items(FOLDER) if item.modified > now - STALE]
    return [lease for lease in blobs.each(lambda key: _lease(store, key), recent) if lease]


def _lease(store: Store, key: str) -> Lease | None:
    content = store.get(key)
    try:
        return content and parse(Lease, content.data, store.at(key))
    except IntegrityError as error:
        raise IntegrityError(f"{error}; if nobody publishes now, delete that object") from None


@contextmanager
def collecting(store: Store, now: datetime, who: str) -> Generator[Callable[[], None]]:
    """Within the block this is the only collector. Call what it yields before each removal.

    ConflictError: another is at work. TransientError from what is yielded: this one has taken too long to be safe.
    """
    mine = Collector(id=uuid.uuid4().hex, who=who, at=now)
    _enter(store, mine)
    end = time.monotonic() + COLLECTING.total_seconds() / 2

    def check() -> None:
        if time.monotonic() > end:
            raise TransientError("the garbage collection has run for half an hour: run it again for the rest")

    try:
        yield check
    finally:
        if time.monotonic() < end:  # else another may have taken over since
            _drop(store, MARKER)


def _drop(store: Store, key: str) -> None:
    """What stays counts for a while and then no longer, so it is no reason to fail: the work itself is done."""
    try:
        store.delete(key)
    except (StorageError, TransientError) as error:
        events.warning(str(error))


def _enter(store: Store, mine: Collector) -> None:
    content = store.get(MARKER)
    found = content and parse(Collector, content.data, store.at(MARKER))
    if found and found.at > mine.at - COLLECTING:
        raise ConflictError(
            f"{found.who} has been collecting garbage in {store.url} since {found.at:%Y-%m-%d %H:%M}: wait for its end; "
            "one that was killed no longer counts an hour after it began"
        )
    if content:
        store.replace(MARKER, mine.to_bytes(), content.etag)
    else:
        store.create(MARKER, mine.to_bytes())
