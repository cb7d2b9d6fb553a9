"""Whether a store keeps the promise that the registry rests on: a conditional write has one winner."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.core.errors import ConflictError, StorageError

if TYPE_CHECKING:
    from tasks.storage.store import Store


@dataclass(frozen=True)
class Conditions:
    """Which conditional writes a store honours, as it showed itself."""

    if_none_match: bool
    if_match: bool

    @property
    def honoured(self) -> bool:
        return self.if_none_match and self.if_match


def require(store: Store, danger: str) -> None:
    """Refuse, with StorageError, a store on which the `danger` is real."""
    if not store.probe_conditional_writes().honoured:
        raise StorageError(
            f"the store at {store.endpoint} ignores conditional writes, so that {danger}: "
            "use one that honours If-None-Match and If-Match (tuneline doctor checks)"
        )


def probe(store: Store) -> Conditions:
    """Try on a scratch object, removed afterwards."""
    key = f"probe/{uuid.uuid4().hex}"
    try:
        store.create(key, b"first")
        if_none_match = _refused(lambda: store.create(key, b"second"))
        refuses_wrong = _refused(lambda: store.replace(key, b"third", f'"{"0" * 32}"'))
        now = store.get(key)
        takes_right = now is not None and not _refused(lambda: store.replace(key, b"fourth", now.etag))
        return Conditions(if_none_match, refuses_wrong and takes_right)
    finally:
        store.delete(key)


def _refused(write: Callable[[], str]) -> bool:
    try:
        write()
    except ConflictError:
        return True
    return False
