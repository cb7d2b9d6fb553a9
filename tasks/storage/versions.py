"""DVC, and nobody else imports it: the stage graph, what has changed, running one stage, keeping data."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Generator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.core.errors import DataError, ParamsError, StageFailed, StorageError, TransientError
from tasks.core.layout import HOME, RAW
from tasks.storage.process import abandoned, owned

os.environ.setdefault("DVC_NO_ANALYTICS", "1")


class Change(Enum):
    """What a stage needs: nothing; its outputs linked from the cache; or to be run."""

    NONE = "unchanged"
    RESTORE = "in the cache"
    RUN = "changed"


@dataclass(frozen=True)
class Stage:
    """A node of the graph, in an order in which every stage stands after those it depends on."""

    name: str
    needs: tuple[str, ...]
    command: str


class Pipeline:
    """The pipeline of one workspace. Its methods are not to be called from two threads at once.

    Each call opens the repository anew: DVC keeps what it has read, and the files change between calls.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root.absolute())

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """In an order in which every stage stands after those it needs."""
        with self._open() as repo:
            return _stages(repo)

    @contextmanager
    def _open(self) -> Generator[Any]:
        """The repository, with its root as the working directory: DVC reads paths in its caches against that."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.ERROR)  # importing DVC sets it to print on standard output
        try:
            with chdir(self._root), Repo(self._root) as repo:
                yield repo
        except DvcException as error:
            raise ParamsError(f"DVC in {self._root}: {error}") from None

    def change(self, name: str) -> Change:
        """What the stage needs, given its inputs as they are now in the workspace."""
        from dvc.dependency.base import DependencyDoesNotExistError
        from dvc.stage.cache import RunCacheNotFoundError
        from dvc_data.hashfile.hash_info import HashInfo

        with self._open() as repo, repo.lock:
            (stage,) = repo.stage.collect(name)
            if not stage.changed():
                return Change.NONE
            try:
                if stage.changed_stage() or not stage.deps_cached():
                    stage.save_deps()
                    for out in stage.outs:  # what dvc.lock says of them belongs to other inputs: ask the run-cache
                        out.hash_info = HashInfo()
                repo.stage_cache.restore(stage, dry=True)
            except (RunCacheNotFoundError, DependencyDoesNotExistError):
                return Change.RUN
            return Change.RESTORE

    def unchanged(self) -> frozenset[str]:
        """The stages that need nothing, nor anything that they need: in one look, where `change` takes one a stage."""
        with self._open() as repo, repo.lock:
            stages, alike = _stages(repo), {each.name for each in repo.index.stages if each.cmd and not each.changed()}
        known: set[str] = set()
        for stage in stages:
            if stage.name in alike and known.issuperset(stage.needs):
                known.add(stage.name)
        return frozenset(known)

    def reasons(self, name: str) -> list[str]:
        """Why the stage would run, in words: `modified data/raw`, `modified train`."""
        with self._open() as repo, repo.lock:
            (stage,) = repo.stage.collect(name)
            return sorted(set(_reasons(list(stage.status().values()))))

    def reproduce(self, name: str) -> None:
        """Run or restore the one stage and record it in dvc.lock. StageFailed: its command failed."""
        from dvc.exceptions import ReproductionError

        with self._open() as repo:
            try:
                repo.reproduce(name, single_item=True)
            except ReproductionError as error:
                raise StageFailed(f"{name}: {error.__cause__ or error}") from None

    def checkout(self, path: Path) -> None:
        """Link a tracked folder from the cache. DataError: the cache lacks it, or nothing was ever tracked."""
        if not Path(self._root, f"{path}.dvc").is_file():
            raise DataError(
                f"there is no {path}.dvc, so no data version lies here: tuneline data ingest LANDING makes the first, "
                "tuneline data checkout latest brings one that the store has"
            )
        try:
            with self._open() as repo:
                repo.checkout([f"{path}.dvc"], force=True)
        except ParamsError:
            raise DataError(
                f"{path}.dvc names data that the cache lacks: bring it with `tuneline data checkout latest`, "
                "or the version that it names"
            ) from None

    def checkout_outputs(self, *, missing_ok: bool = False) -> None:
        """Link every stage's outputs, as dvc.lock names them, from the cache. missing_ok: as far as both have them."""
        with self._open() as repo:
            made = [stage for stage in repo.index.stages if stage.cmd]
            recorded = [stage.name for stage in made if all(out.hash_info for out in stage.outs)]
            # By its stages' names, dvc.yaml is read once for each. No target at all would mean every one.
            targets = ["dvc.yaml"] if len(recorded) == len(made) or not missing_ok else recorded
            if targets:
                repo.checkout(targets, force=True, allow_missing=missing_ok)

    def set_params(self, changes: Mapping[str, Any]) -> None:
        """Write dotted paths into the workspace's params.yaml, leaving its comments where they are."""
        from dvc.utils.serialize import modify_yaml

        with modify_yaml(os.path.join(self._root, "params.yaml")) as data:
            for path, value in changes.items():
                *parents, last = path.split(".")
                node = data
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[last] = value


def _stages(repo: Any) -> tuple[Stage, ...]:
    import networkx

    graph = repo.index.graph
    order = reversed(list(networkx.lexicographical_topological_sort(graph, key=lambda stage: stage.addressing)))
    return tuple(
        Stage(stage.name, tuple(sorted(need.name for need in graph.successors(stage) if need.cmd)), stage.cmd)
        for stage in order
        if stage.cmd
    )


def _reasons(status: Any, path: str = "") -> list[str]:
    """Flatten DVC's nested status: lists of dicts from a heading to a path to a word."""
    if isinstance(status, str):
        return [f"{status} {path}".strip()]
    if isinstance(status, list):
        return [line for item in status for line in _reasons(item, path)]
    lines: list[str] = []
    for key, value in status.items():
        heading = key in ("changed deps", "changed outs", "changed command")
        lines += _reasons(value, path if heading else key)
    return lines


@dataclass(frozen=True)
class Scratch:
    """A place to make the next data version in, apart from the checkout but with its cache: `raw` is the corpus there."""

    root: Path
    remote: str

    @property
    def raw(self) -> Path:
        return self.root / RAW

    def restore(self, pointer: str) -> Path:
        """The corpus that the pointer names, from the cache, or from the remote where the cache lacks it."""
        file = Path(f"{self.raw}.dvc")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(pointer, encoding="utf-8")
        with self._open() as repo:
            repo.fetch([str(file)])
            repo.checkout([str(file)], force=True)
        return self.raw

    def save(self) -> str:
        """Put the corpus into the cache and the remote; the text of its pointer."""
        with self._open() as repo:
            repo.add(str(self.raw))
            repo.push([f"{self.raw}.dvc"])
        return Path(f"{self.raw}.dvc").read_text(encoding="utf-8")

    @contextmanager
    def _open(self) -> Generator[Any]:
        from dvc.exceptions import DvcException, FileTransferError
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        remote = {"core": {"remote": "tuneline"}, "remote": {"tuneline": {"url": self.remote, "verify": True}}}
        try:
            with chdir(self.root), Repo(str(self.root), config=remote) as repo:
                yield repo
        except FileTransferError as error:  # DVC says of how many files, and not why
            raise TransientError(
                f"the shards in {self.remote}: {error}; run the command again; if it repeats, check the AWS_* variables"
            ) from None
        except (DvcException, OSError) as error:
            raise StorageError(
                f"the shards in {self.remote}: {error}; check the AWS_* variables, then run the command again"
            ) from None


@contextmanager
def scratch(checkout: Path, remote: str) -> Generator[Scratch]:
    """A scratch repository below the checkout, gone when the block ends. What killed ones left is removed first."""
    checkout = checkout.absolute()
    home = checkout / HOME / "scratch"
    home.mkdir(parents=True, exist_ok=True)
    for dead in abandoned(home):
        shutil.rmtree(dead, ignore_errors=True)
    root = home / uuid.uuid4().hex
    with owned(root):
        try:
            (root / RAW).parent.mkdir(parents=True)
            (root / ".dvc").mkdir()
            (root / ".dvc" / "config").write_text(
                "[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8"
            )
            share_cache(root, checkout)
            yield Scratch(root, remote)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def share_cache(workspace: Path, checkout: Path) -> None:
    """Let a worktree use the first checkout's cache (its run-cache too), and keep its own scratch inside itself."""
    (workspace / ".dvc" / "config.local").write_text(
        f'[cache]\n    dir = "{checkout / ".dvc" / "cache"}"\n[core]\n    site_cache_dir = "{workspace / ".dvc" / "site"}"\n',
        encoding="utf-8",
    )
