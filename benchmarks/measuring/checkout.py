"""A checkout to run the line in: the files as they lie in the working tree, and nothing that a run has made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring.child import Unprepared, last_line

ROOT = Path(__file__).parents[2]
SETTINGS = ("AWS_", "DVC_", "GIT_", "PREFECT_", "PYTHON", "TUNELINE_")
"""What a developer has set for work of their own must not reach what is measured."""
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}


def make(into: Path, *leave: str) -> Path:
    """Copy the tracked and the new, not ignored files, but for those to `leave`, and commit them there."""
    for name in _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source = ROOT / name
        if name and name not in ("dvc.lock", *leave) and source.is_file():  # a deleted file is tracked still
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into / name)
    _git(into, "init", "--quiet")
    commit(into)
    return into


def commit(checkout: Path) -> None:
    author = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", "-c", "commit.gpgsign=false")
    _git(checkout, "add", "--all")
    _git(checkout, *author, "commit", "--quiet", "--no-verify", "-m", "benchmark")


def settle(checkout: Path) -> None:
    """Let DVC keep its scratch inside; it would otherwise stay behind in a folder of the whole machine."""
    local = f'[core]\n    site_cache_dir = "{checkout.absolute() / ".dvc" / "site"}"\n'
    (checkout / ".dvc" / "config.local").write_text(local, encoding="utf-8")


def environment(checkout: Path) -> dict[str, str]:
    """For commands in the checkout: its own code, this Python, embedded services, no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**kept, **QUIET, "PATH": path, "PYTHONPATH": str(checkout.absolute())}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise Unprepared("git is not installed: the line runs in a git checkout; install git") from None
    except subprocess.CalledProcessError as error:
        raise Unprepared(f"git {arguments[0]} failed: {last_line(error.stderr)}; run this in a git clone") from None
