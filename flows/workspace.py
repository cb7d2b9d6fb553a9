"""A run's own checkout: a git worktree of the files as they are now, sharing the DVC cache. Runs never collide."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core import layout, params
from tasks.core.params import Params
from tasks.ml import loggers
from tasks.storage import revision
from tasks.storage.process import abandoned, owned
from tasks.storage.revision import Snapshot
from tasks.storage.versions import Pipeline, share_cache

LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Workspace:
    """`root` is the run's checkout, `checkout` the user's; `overrides` are the params that differ from its file.

    `stop` is set when a stage fails or the run is stopped: the one under way ends, no other begins.
    """

    root: Path
    checkout: Path
    snapshot: Snapshot
    overrides: Mapping[str, Any]
    pipeline: Pipeline
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def workspace(checkout: Path, name: str, chosen: Params) -> Generator[Workspace]:
    """Make the workspace of a run with these params, the raw data linked into it; gone when the block ends."""
    taken = revision.snapshot(checkout)
    overrides = params.difference(params.load(checkout / params.FILE), chosen)
    runs = checkout / layout.HOME / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for dead in abandoned(runs):
        revision.remove(checkout, dead)
    with owned(runs / name), revision.worktree(checkout, taken.commit, runs / name) as root:
        share_cache(root, checkout)
        os.environ["TUNELINE_WORK"] = str(checkout / ".work")  # checkpoints outlive the workspace
        os.environ[loggers.VARIABLE] = loggers.anchored(os.environ, checkout)  # so do what loggers write
        pipeline = Pipeline(root)
        if overrides:
            pipeline.set_params(overrides)
            pipeline = Pipeline(root)
        pipeline.checkout(layout.RAW)
        yield Workspace(root, checkout, taken, overrides, pipeline)


def bring_back(run: Workspace) -> bool:
    """Give the user's checkout the run's dvc.lock and outputs, so that `dvc repro` there has nothing to do.

    False, and nothing done, where the checkout has moved on or the run had params of its own.
    """
    with _locked(run.checkout):
        if run.overrides or revision.snapshot(run.checkout).commit != run.snapshot.commit:
            return False
        partial = run.checkout / "dvc.lock.partial"
        shutil.copyfile(run.root / LOCK, partial)
        partial.replace(run.checkout / LOCK)
        Pipeline(run.checkout).checkout_outputs()
    return True


@contextmanager
def _locked(checkout: Path) -> Generator[None]:
    with (checkout / layout.HOME / "checkout.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
