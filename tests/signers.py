"""Pairs of keys for tests of signatures."""

from __future__ import annotations

from pathlib import Path

from tasks.storage import keys
from tasks.storage.keys import PrivateKey


def pair(folder: Path, passphrase: str | None = None) -> dict[str, str]:
    """The environment of one who signs with a new key and trusts it."""
    private, public, _ = keys.make(folder, passphrase)
    opened = {keys.PASSPHRASE: passphrase} if passphrase else {}
    return {keys.SIGNING: str(private), keys.TRUSTED: str(public), **opened}


def signer(folder: Path) -> PrivateKey:
    made = keys.signer(pair(folder))
    assert made
    return made
