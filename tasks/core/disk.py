"""What a disk will take, asked before the work whose result it is to hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tasks.core.errors import ResourceError


def check_writable(*places: Path) -> None:
    """ResourceError: something can't be made there, as the folder above it takes no files."""
    for place in places:
        folder = _existing(place)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ResourceError(
                f"{place} can't be written: {folder} is read-only for this user: make it writable, or choose another folder"
            )


def free(place: Path) -> int:
    """Bytes that this user may still write there."""
    return shutil.disk_usage(_existing(place)).free


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
