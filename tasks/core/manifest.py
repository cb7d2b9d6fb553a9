"""What a step says about its output: `manifest.json`, written last. A folder without one does not exist.

A manifest holds content only (files, inputs, params, facts), never a clock, a host or a run, so
that equal work gives equal bytes. Modelled on the laws that sigstore/model-transparency states.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tasks.core import digest
from tasks.core.errors import IntegrityError

NAME = "manifest.json"


class FileEntry(BaseModel):
    """One file's bytes: SHA-256 in hex and size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    size: int


class Manifest(BaseModel):
    """`inputs` maps each input's name to its manifest's digest; `files` maps a relative path to its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = 1
    step: str
    inputs: dict[str, str]
    params: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _stays_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name:
                raise ValueError(f"the path {name!r} is not a plain relative path")
        return files

    @property
    def digest(self) -> str:
        """Identity of the whole output. Law: one changed byte in any file changes it."""
        return digest.of_value(self.model_dump(mode="json"))

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def parse(data: bytes, where: str) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise IntegrityError(
            f"{where} is not a manifest: {'.'.join(map(str, first['loc']))}: {first['msg']}. "
            "Delete the folder and run its stage again."
        ) from None


def describe(folder: Path, *, links: bool = False) -> dict[str, FileEntry]:
    """Every file below `folder` but the manifest, by its POSIX path.

    A step's own output holds no links (they would leave the folder); what DVC checked out may be
    linked to its cache (`links=True`).
    """
    paths = sorted(path for path in folder.rglob("*") if path.name != NAME and (path.is_symlink() or path.is_file()))
    for path in paths:
        if path.is_symlink() and not links:
            raise IntegrityError(f"{path} is a link; an output holds plain files only")
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL: large folders hash at disk speed
        digests = list(pool.map(digest.of_file, paths))
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha, size=path.stat().st_size)
        for path, sha in zip(paths, digests, strict=True)
    }


def seal(
    folder: Path, *, step: str, inputs: Mapping[str, str], params: Mapping[str, Any], facts: Mapping[str, Any]
) -> Manifest:
    """Write the manifest of a finished folder, last of all its files, and flush everything to disk."""
    manifest = Manifest(step=step, inputs=dict(inputs), params=dict(params), facts=dict(facts), files=describe(folder))
    for name in manifest.files:
        _fsync(folder / name)
    (folder / NAME).write_bytes(manifest.to_bytes())
    _fsync(folder / NAME)
    _fsync(folder)
    return manifest


def read(folder: Path) -> Manifest:
    """The manifest alone, without looking at the files it names."""
    try:
        return parse((folder / NAME).read_bytes(), str(folder / NAME))
    except FileNotFoundError:
        raise IntegrityError(
            f"{folder} has no {NAME}, so it was never finished. Run the stage that makes it: dvc repro"
        ) from None


def verify(folder: Path) -> Manifest:
    """The manifest, after comparing every file's bytes with it.

    DVC hands out altered cache files without a word, so a step reads its inputs through this door.
    A file whose name the manifest lacks is an error too: nothing unaccounted for enters a step.
    """
    manifest = read(folder)
    found = describe(folder, links=True)
    for name in sorted(manifest.files.keys() | found.keys()):
        want, have = manifest.files.get(name), found.get(name)
        if want != have:
            what = "is missing" if have is None else "is not in the manifest" if want is None else "was altered"
            raise IntegrityError(
                f"{folder / name} {what}. Delete {folder} and its copy in .dvc/cache, then run the stage "
                "that makes it again: dvc repro --force --single-item"
            )
    return manifest


@contextmanager
def staged(out: Path) -> Generator[Path]:
    """A folder `<out>.partial` to write in, renamed to `out` when the block ends without an error.

    Law: at every moment `out` is either the whole old output, absent, or the whole new one.
    What an earlier, killed attempt left in the partial folder is removed first.
    """
    partial, old = out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")
    for stale in (partial, old):
        if stale.exists():
            shutil.rmtree(stale)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise IntegrityError(f"{out} is a file or a link where a folder belongs: move it away")
    if out.exists() and any(out.iterdir()) and not (out / NAME).exists():
        raise IntegrityError(f"{out} holds files that no step made: move them away, then run the stage again")
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if not (partial / NAME).exists():
        shutil.rmtree(partial)
        raise IntegrityError(f"{out}: the step wrote no {NAME}")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    _fsync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
