"""Git: a commit of the code as it lies here, uncommitted changes included, and worktrees at it. No branch is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.core import digest
from tasks.core.errors import ResourceError

AUTHOR = {
    "GIT_AUTHOR_NAME": "tuneline", "GIT_AUTHOR_EMAIL": "tuneline@localhost",
    "GIT_COMMITTER_NAME": "tuneline", "GIT_COMMITTER_EMAIL": "tuneline@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}  # fmt: skip
"""Fixed, so that equal working trees are equal commits."""


@dataclass(frozen=True)
class Snapshot:
    """`commit` holds exactly the files of the working tree; `head` is the branch's commit below it.
    `changes` is the digest of the difference between the two, None where there is none; dvc.lock, which every run
    rewrites, and the data's pointer, which every ingest does, are no change."""

    commit: str
    head: str
    changes: str | None


def snapshot(root: Path) -> Snapshot:
    """Commit the tracked and the new, not ignored files as they are now, through an index of its own.

    Law: neither the branch, nor the user's index, nor any file changes.
    """
    head = _git(root, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": f"{folder}/index"}
        _git(root, "read-tree", head, environment=own)
        _git(root, "add", "--all", environment=own)
        tree = _git(root, "write-tree", environment=own)
    if tree == _git(root, "rev-parse", f"{head}^{{tree}}"):
        return Snapshot(head, head, None)
    commit = _git(root, "commit-tree", tree, "-p", head, "-m", "tuneline: working tree", environment=AUTHOR)
    difference = _git(root, "diff", "--binary", head, commit, "--", ".", ":!dvc.lock", ":!data/raw.dvc")
    return Snapshot(commit, head, digest.of_bytes(difference.encode(errors="surrogateescape")) if difference else None)


def record(root: Path, file: Path, message: str, tag: str | None) -> None:
    """Commit one file on the user's branch, and nothing else of what lies there; then tag the commit, if wanted."""
    _git(root, "add", "--force", "--", str(file))
    if _git(root, "diff", "--cached", "--name-only", "--", str(file)):
        _git(root, "commit", "--quiet", "--only", "-m", message, "--", str(file))
    if tag is not None:
        _git(root, "tag", "--force", tag)


@contextmanager
def worktree(root: Path, commit: str, folder: Path) -> Generator[Path]:
    """A checkout of `commit` in `folder`, gone when the block ends. What a killed run left there is removed first."""
    remove(root, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git(root, "worktree", "add", "--detach", "--force", str(folder), commit)
    try:
        yield folder
    finally:
        remove(root, folder)


def remove(root: Path, folder: Path) -> None:
    """Take a worktree away, whatever state it is in."""
    shutil.rmtree(folder, ignore_errors=True)
    _git(root, "worktree", "prune")


def _git(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=True,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise ResourceError("git is not installed: a run records the commit that it ran; install git") from None
    except subprocess.CalledProcessError as error:
        raise ResourceError(f"git {arguments[0]} in {root} failed: {error.stderr.strip()}") from None
    return done.stdout.strip()
