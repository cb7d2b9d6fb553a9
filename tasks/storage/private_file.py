"""A small file that only its owner reads, made once: what a server and its users must both know."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def kept(path: Path, make: Callable[[], str]) -> str:
    """What stands in the file, or is made for it now; its folder is the owner's alone.

    Law: every process sees the same text, also when two ask for the first time at once. OSError: it can't be kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    if not path.exists():
        _create(path, make())
    return path.read_text(encoding="utf-8", errors="replace")


def _create(path: Path, text: str) -> None:
    """Whole or not at all, readable by nobody else, and never over a file that is there."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(new, path)
    except FileExistsError:
        pass  # another process was first: its text counts
    finally:
        new.unlink(missing_ok=True)
