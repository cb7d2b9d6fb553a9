"""An adapter beside weights that can't take it in: one folder holds both, and whoever loads it puts them together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tasks.core import manifest
from tasks.core.standing import BESIDE


def keep(base: Path, adapter: Path, into: Path) -> None:
    """The base's files and, in a folder of its own, the adapter: linked where the file system can, else copied."""
    _link(base, into)
    carry(adapter, into)


def carry(adapter: Path, into: Path) -> None:
    """With the folders in it: an adapter may have parts."""
    (into / BESIDE).mkdir()
    _link(adapter, into / BESIDE)
    for folder in sorted(path for path in adapter.rglob("*") if path.is_dir()):
        (into / BESIDE / folder.relative_to(adapter)).mkdir()
        _link(folder, into / BESIDE / folder.relative_to(adapter))


def _link(source: Path, target: Path) -> None:
    """The folder's own files, but not the manifest: the output has one of its own."""
    for file in sorted(source.iterdir()):
        if file.name == manifest.NAME or not file.is_file():
            continue
        try:
            os.link(file.resolve(), target / file.name)  # DVC may have linked the file to its cache
        except OSError:
            shutil.copyfile(file, target / file.name)
