"""Which conversations a corpus holds already: 16 bytes a row, whatever the rows' length."""

from __future__ import annotations

import numpy as np

from tasks.core.errors import IntegrityError

_WIDTH = 16
YOUNG = 1 << 14
"""Digests in the small set before they are sorted in."""


class Seen:
    """A set of digests. New ones gather in a small set, which is merged into sorted runs that double in size, so that
    adding is O(log n) amortised and memory stays near 16 bytes a digest.

    Half of a SHA-256 is kept: among ten million rows two different ones meet with a chance of 2e-25.
    """

    def __init__(self) -> None:
        self._young: set[bytes] = set()
        self._runs: list[np.ndarray] = []

    def add(self, digest: str) -> bool:
        """Take in a SHA-256 in hex; whether it is new."""
        if digest in self:
            return False
        self._young.add(_key(digest))
        if len(self._young) >= YOUNG:
            self._settle()
        return True

    def __contains__(self, digest: str) -> bool:
        key = _key(digest)
        return key in self._young or any(_holds(run, key) for run in self._runs)

    def take(self, other: Seen) -> None:
        """Take in all that another set holds; the two have nothing in common."""
        self._young |= other._young
        for run in other._runs:
            self._insert(run)
        if len(self._young) >= YOUNG:
            self._settle()

    def __len__(self) -> int:
        return len(self._young) + sum(map(len, self._runs))

    def _settle(self) -> None:
        run = np.sort(np.frombuffer(b"".join(self._young), dtype=f"S{_WIDTH}"))
        self._young.clear()
        self._insert(run)

    def _insert(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)


def _key(digest: str) -> bytes:
    key = bytes.fromhex(digest)[:_WIDTH]
    if len(key) != _WIDTH:
        raise IntegrityError(f"{digest!r} is no SHA-256 in hex")
    return key


def _holds(run: np.ndarray, key: bytes) -> bool:
    place = int(np.searchsorted(run, np.bytes_(key)))
    # numpy drops zero bytes at the end of both, so equal width makes this an exact comparison.
    return place < len(run) and run[place] == key.rstrip(b"\0")
