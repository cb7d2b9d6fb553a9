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

import yaml

from tasks.core import layout, manifest, params
from tasks.core.errors import IntegrityError, ResourceError
from tasks.core.params import Params
from tasks.core.rules import LimitsParams
from tasks.ml import loggers
from tasks.storage import revision
from tasks.storage.checkout import current, restore
from tasks.storage.corpus import Corpus, DataVersion
from tasks.storage.lineage import Lineage
from tasks.storage.model_version import Version
from tasks.storage.process import abandoned, owned
from tasks.storage.registry import Registry
from tasks.storage.revision import Snapshot
from tasks.storage.versions import Change, Pipeline, Scratch, scratch, share_cache

LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Workspace:
    """`root` is the run's checkout, `checkout` the user's; `overrides` are the params that differ from its file.

    `unchanged` are the stages that had nothing to do from the beginning, nor any that they need.
    `stop` is set when a stage fails or the run is stopped: the one under way ends, no other begins.
    """

    root: Path
    checkout: Path
    snapshot: Snapshot
    overrides: Mapping[str, Any]
    pipeline: Pipeline
    limits: LimitsParams
    unchanged: frozenset[str] = frozenset()
    stop: threading.Event = field(default_factory=threading.Event)

    def change(self, stage: str) -> Change:
        """What the stage needs now: nobody but the stages themselves changes the files here."""
        return Change.NONE if stage in self.unchanged else self.pipeline.change(stage)


@contextmanager
def workspace(checkout: Path, name: str, chosen: Params, data: DataVersion | None = None) -> Generator[Workspace]:
    """Make the workspace of a run with these params, the raw data linked into it; gone when the block ends.

    data: a version of the corpus in place of the one that lies in the checkout.
    """
    taken = revision.snapshot(checkout)
    overrides = params.difference(params.load(checkout / params.FILE), chosen)
    with _worktree(checkout, taken.commit, name) as root:
        share_cache(root, checkout)
        os.environ["TUNELINE_WORK"] = str(checkout / ".work")  # checkpoints outlive the workspace
        os.environ[loggers.VARIABLE] = loggers.anchored(os.environ, checkout)  # so do what loggers write
        if data:
            with scratch(checkout, Corpus.open(os.environ).remote) as room:
                restore(room, data)  # into the cache, every byte checked
            (root / f"{layout.RAW}.dvc").write_text(data.pointer, encoding="utf-8")
        pipeline = _configured(root, overrides)
        pipeline.checkout(layout.RAW)
        pipeline.checkout_outputs(missing_ok=True)  # all at once: restored one by one, each costs 0.3 s
        yield Workspace(root, checkout, taken, overrides, pipeline, chosen.limits, pipeline.unchanged())


@contextmanager
def as_made(checkout: Path, name: str, version: Version, into: Registry) -> Generator[Workspace]:
    """The workspace in which a version was made: its commit, changes, params and data, but nothing that was made of them:
    neither the cache nor the checkpoints of the checkout can stand in for the work.

    ResourceError: the repository lacks the commit. IntegrityError: the data are others. StorageError: they are gone.
    """
    made = Lineage.of(version)
    if not revision.has(checkout, made.commit):
        raise ResourceError(
            f"{version.reference} was made at commit {made.commit}, which this repository lacks: git fetch it, or run the "
            "command in the repository it was made in"
        )
    patch = made.patch(version, into.store)
    with _worktree(checkout, made.commit, name) as root:
        share_cache(root, root)
        revision.apply(root, made.commit, patch)
        (root / LOCK).unlink(missing_ok=True)
        os.environ["TUNELINE_WORK"] = str(root / ".work")
        os.environ.setdefault("TUNELINE_THREADS", str(made.environment["threads"]))
        overrides = params.difference(params.load(root / params.FILE), made.params)
        raw = Scratch(root, Corpus.open(os.environ).remote).restore(yaml.safe_dump(dict(made.pointer), sort_keys=False))
        if manifest.verify(raw).digest != made.data:
            raise IntegrityError(f"the data that {version.reference} names are not those it was made of")
        taken = Snapshot(made.commit, made.commit, patch)
        limits = params.load(checkout / params.FILE).limits
        yield Workspace(root, checkout, taken, overrides, _configured(root, overrides), limits)


@contextmanager
def _worktree(checkout: Path, commit: str, name: str) -> Generator[Path]:
    """In a folder of its own below the checkout; what killed runs left is removed first."""
    runs = checkout / layout.HOME / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for dead in abandoned(runs):
        revision.remove(checkout, dead)
    with owned(runs / name), revision.worktree(checkout, commit, runs / name) as root:
        yield root


def _configured(root: Path, overrides: Mapping[str, Any]) -> Pipeline:
    if overrides:
        Pipeline(root).set_params(overrides)
    return Pipeline(root)


def bring_back(run: Workspace) -> bool:
    """Give the user's checkout the run's dvc.lock and outputs, so that `dvc repro` there has nothing to do.

    False, and nothing done, where the checkout has moved on or the run had params or data of its own.
    """
    with _locked(run.checkout):
        if (
            run.overrides
            or current(run.root) != current(run.checkout)
            or revision.snapshot(run.checkout).commit != run.snapshot.commit
        ):
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
