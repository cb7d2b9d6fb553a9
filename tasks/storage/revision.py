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
from tasks.core.errors import DataError, ResourceError

AUTHOR = {
    "GIT_AUTHOR_NAME": "tuneline", "GIT_AUTHOR_EMAIL": "tuneline@localhost",
    "GIT_COMMITTER_NAME": "tuneline", "GIT_COMMITTER_EMAIL": "tuneline@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}  # fmt: skip
"""Fixed, so that equal working trees are equal commits."""

NOT_CODE = ("dvc.lock", "data/raw.dvc", "**/.env*", "**/*.pem", "**/*.key", "**/id_rsa*", "**/id_ed25519*")
"""Left out of a snapshot's difference: what every run rewrites, what every ingest does, and files named as secrets are."""


@dataclass(frozen=True)
class Snapshot:
    """`commit` holds exactly the files of the working tree; `head` is the branch's commit below it.
    `difference` is the patch from `head` to `commit`, NOT_CODE aside; None where there is none."""

    commit: str
    head: str
    difference: bytes | None

    @property
    def changes(self) -> str | None:
        """Digest of the difference."""
        return digest.of_bytes(self.difference) if self.difference else None


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
    left_out = [f":(exclude,glob){pattern}" for pattern in NOT_CODE]
    difference = _output(root, "diff", "--binary", head, commit, "--", ".", *left_out)
    return Snapshot(commit, head, difference or None)


def apply(root: Path, commit: str, difference: bytes | None) -> None:
    """Lay a snapshot's difference over a worktree of its `head`. DataError: it does not fit."""
    if difference is None:
        return
    with tempfile.NamedTemporaryFile(suffix=".patch") as file:
        file.write(difference)
        file.flush()
        try:
            _output(root, "apply", "--binary", "--whitespace=nowarn", file.name)
        except ResourceError as error:
            raise DataError(f"the uncommitted changes do not fit the commit {commit[:12]}: {error}") from None


def has(root: Path, commit: str) -> bool:
    """Whether the repository knows the commit."""
    try:
        _output(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except ResourceError:
        return False
    return True


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
    return _output(root, *arguments, environment=environment).decode(errors="surrogateescape").strip()


def _output(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    """ResourceError: there is no git, or it refuses."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **(environment or {})})
    except FileNotFoundError:
        raise ResourceError("git is not installed: a run records the commit that it ran; install git") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise ResourceError(f"git {arguments[0]} in {root} failed: {said}") from None
    return done.stdout
