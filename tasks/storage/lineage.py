"""What a registered version says of its making: enough to make it again, and to tell whether that went well."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, cast

from tasks.core import digest, layout, params
from tasks.core.errors import IntegrityError
from tasks.core.params import Params
from tasks.data import parallel
from tasks.storage import blobs
from tasks.storage.model_version import Version
from tasks.storage.store import Store

Value = TypeVar("Value")

CHANGES = "source/changes.patch"
"""The file of a version that holds what was not committed when it was made."""
LOCK_FILE = Path("infra/requirements.lock")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "tokenizers", "dvc", "prefect")


def of_models(files: Mapping[str, Value]) -> dict[str, Value]:
    """The files of a version that its identity makes equal: not the report, which holds times, nor what was not committed."""
    return {path: value for path, value in files.items() if path.partition("/")[0] not in ("report", "source")}


def environment(root: Path) -> dict[str, Any]:
    """What the bytes depend on beside code, data and params."""
    lock = root / LOCK_FILE
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": parallel.workers(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "lock_file": digest.of_file(lock) if lock.is_file() else None,
    }


def _processor() -> str:
    """Its name; kernels are chosen by it, and other kernels sum in another order."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass(frozen=True)
class Lineage:
    """`pointer` is DVC's of the corpus whose manifest has the digest `data`; `changes`: of the patch, None where the
    commit alone made it."""

    commit: str
    changes: str | None
    pointer: Mapping[str, Any]
    data: str
    params: Params
    environment: Mapping[str, Any]

    @classmethod
    def of(cls, version: Version) -> Lineage:
        """IntegrityError: the record lacks a part of it, or is of another release."""
        record: dict[str, Any] = version.record
        try:
            return cls(
                record["git"]["commit"], record["git"]["changes"], record["data"]["dvc"], record["data"]["digest"],
                params.parse(record["params"], f"the params of {version.reference}"), record["environment"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise IntegrityError(
                f"the record of {version.reference} lacks {error}: it can't be made again from it"
            ) from None

    def patch(self, version: Version, store: Store) -> bytes | None:
        """The uncommitted changes. IntegrityError: the version does not hold them, or they were altered."""
        if self.changes is None:
            return None
        if CHANGES not in version.files:
            raise IntegrityError(
                f"{version.reference} was made with uncommitted changes that it does not hold, so that it can't be made again"
            )
        return b"".join(blobs.stream(store, CHANGES, version.files[CHANGES]))

    def elsewhere(self, root: Path) -> list[str]:
        """What differs here from where it was made, in words."""
        here, there = params.flat(environment(root)), params.flat(self.environment)
        return [f"{name} {there[name]} there, {here[name]} here" for name in there if here.get(name) != there[name]]


@dataclass(frozen=True)
class Remade:
    """A version beside what was made anew. `files`: those of its models, by their path in the version; `differing`: whose
    bytes are others; `metrics`: how far each figure is from the recorded one, where it is."""

    files: tuple[str, ...]
    differing: tuple[str, ...]
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, version: Version, root: Path) -> Remade:
        """Compares the models' files with those in a workspace; reports hold times, so their metrics stand for them."""
        names = list(of_models(version.files))
        differing = [name for name in names if not _same(version, name, root)]
        found = params.flat(json.loads((root / layout.RUN_REPORT / "metrics.json").read_bytes()))
        recorded = params.flat(cast("dict[str, Any]", version.record["metrics"]))
        return cls(tuple(names), tuple(differing), dict(_distances(recorded, found)))

    @property
    def furthest(self) -> float:
        return max(self.metrics.values(), default=0.0)


def _same(version: Version, name: str, root: Path) -> bool:
    part, _, inside = name.partition("/")
    file = root / layout.model(part) / inside
    return file.is_file() and digest.of_file(file) == version.files[name].sha256


def _distances(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """A figure that one of them lacks is infinitely far."""
    names = sorted(recorded.keys() | found.keys())
    values = [(name, recorded.get(name), found.get(name)) for name in names]
    return [
        (name, abs(float(one) - float(other)) if one is not None and other is not None else float("inf"))
        for name, one, other in values
        if one != other
    ]
