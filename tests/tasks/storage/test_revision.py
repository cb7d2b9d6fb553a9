"""A snapshot holds the files as they are and touches nothing; equal trees are equal commits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.core.errors import DataError, ResourceError
from tasks.storage import revision


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a").write_text("one")
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def test_a_clean_tree_is_its_own_commit(root: Path) -> None:
    taken = revision.snapshot(root)
    assert taken.commit == taken.head == git(root, "rev-parse", "HEAD").strip()
    assert taken.changes is None


def test_uncommitted_and_new_files_come_along_and_nothing_is_touched(root: Path, tmp_path: Path) -> None:
    (root / "a").write_text("two")
    (root / "new").write_bytes("Gr\u00fc\u00dfe".encode("latin-1"))
    (root / "ignored").write_text("secret")
    before = git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "branch", "--list")
    taken = revision.snapshot(root)
    assert revision.snapshot(root) == taken and taken.changes
    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "branch", "--list")) == before
    with revision.worktree(root, taken.commit, tmp_path / "tree") as tree:
        assert (tree / "a").read_text() == "two" and (tree / "new").exists() and not (tree / "ignored").exists()
    assert not (tmp_path / "tree").exists()


def test_the_difference_makes_the_snapshot_of_its_head(root: Path, tmp_path: Path) -> None:
    """Bytes of any kind, and nothing of what is named as a secret is."""
    (root / "a").write_bytes(b"two\r\n  \n")
    (root / "new").write_bytes(bytes(range(256)) * 8)
    for secret in (".env", "sub/.env.local", "sub/private.pem", "id_rsa"):
        (root / secret).parent.mkdir(exist_ok=True)
        (root / secret).write_text("hunter2")
    taken = revision.snapshot(root)
    assert taken.difference and b"hunter2" not in taken.difference and b".env" not in taken.difference
    with revision.worktree(root, taken.head, tmp_path / "tree") as tree:
        revision.apply(tree, taken.head, taken.difference)
        assert (tree / "a").read_bytes() == b"two\r\n  \n" and (tree / "new").read_bytes() == bytes(range(256)) * 8
        with pytest.raises(DataError, match="do not fit the commit"):
            revision.apply(tree, taken.head, taken.difference)
    assert revision.has(root, taken.head) and not revision.has(root, "f" * 40)


def test_a_new_lock_file_is_no_change_of_the_code(root: Path) -> None:
    (root / "dvc.lock").write_text("x")
    taken = revision.snapshot(root)
    assert taken.changes is None and taken.commit != taken.head


def test_no_repository_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="git rev-parse in"):
        revision.snapshot(tmp_path)
