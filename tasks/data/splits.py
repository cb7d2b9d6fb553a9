"""Which rows train, validate and test: decided by a hash of the prompt, never by a draw."""

from __future__ import annotations

import hashlib
from typing import Literal

from tasks.core.sections import Splits

Split = Literal["train", "valid", "test"]
NAMES: tuple[Split, ...] = ("train", "valid", "test")


def place(group: str, shares: Splits, salt: str) -> Split:
    """The split of a group. Law: it depends on the group alone, so adding rows moves none."""
    point = int.from_bytes(hashlib.sha256(f"{salt}\0{group}".encode()).digest()[:8], "big") / 2**64
    if point < shares.test:
        return "test"
    return "valid" if point < shares.test + shares.valid else "train"
