"""What can go wrong, by what the caller should do next.

    TunelineError           anything said to the user on one line, without a traceback
    ├── ParamsError         params.yaml or a flag is wrong: mend it; never retried
    ├── DataError           a row or a file is malformed: mend the data; never retried
    ├── ModelError          the base, an adapter or a format can't be used; never retried
    ├── IntegrityError      bytes differ from their digest: restore them; never retried
    ├── ResourceError       disk, memory or permission: make room, then run again
    ├── StorageError        the store refuses: credentials, bucket, address; never retried
    │   └── ConflictError   somebody else was first: read again, then decide
    ├── TransientError      network or throttling: retried with backoff
    ├── ServiceError        an embedded service did not start or died
    └── StageFailed         a stage's own process failed; carries that step's message
        └── Killed          it was killed from outside: tried again, from its checkpoint

A message says what happened, where, what was found, and the next move.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, ClassVar


class TunelineError(Exception):
    """Base of every error that is meant for the user."""

    exit_code: ClassVar[int] = 1


class ParamsError(TunelineError):
    exit_code = 2


class DataError(TunelineError):
    exit_code = 3


class ModelError(TunelineError):
    exit_code = 4


class IntegrityError(TunelineError):
    exit_code = 5


class ResourceError(TunelineError):
    exit_code = 6


class StorageError(TunelineError):
    exit_code = 7


class ConflictError(StorageError):
    exit_code = 8


class TransientError(TunelineError):
    exit_code = 9


class ServiceError(TunelineError):
    exit_code = 10


class StageFailed(TunelineError):
    exit_code = 11


class Killed(StageFailed):
    pass


KINDS: dict[str, type[TunelineError]] = {
    kind.__name__: kind
    for kind in (
        TunelineError, ParamsError, DataError, ModelError, IntegrityError, ResourceError,
        StorageError, ConflictError, TransientError, ServiceError, StageFailed, Killed,
    )
}  # fmt: skip


def from_event(event: Mapping[str, Any]) -> TunelineError:
    """The error that a step's `error` event tells of; an unknown kind becomes a plain TunelineError."""
    return KINDS.get(event["type"], TunelineError)(event["message"])


DISK_FULL = "the disk is full: free some space, then run the same command again"


def from_os_error(error: OSError, doing: str) -> ResourceError:
    """An operating-system refusal in the user's words.

    Law: the result always names what was being done and, where there is one, the path.
    """
    where = f" ({error.filename})" if error.filename else ""
    next_move = {
        errno.ENOSPC: DISK_FULL,
        errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
        errno.EACCES: "permission denied: make the folder writable for this user",
        errno.EROFS: "the file system is read-only: choose a writable workspace",
    }.get(error.errno or 0, f"{error.strerror or error}: check the path, then run the same command again")
    return ResourceError(f"{doing}{where}: {next_move}")
