"""A registered version as what the next training begins with: its merged model, or its adapter beside the original base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tasks.core import manifest
from tasks.core.continued import FROZEN
from tasks.core.errors import ModelError, ParamsError
from tasks.core.standing import Standing
from tasks.storage import bases
from tasks.storage.model_version import Version, parse_reference
from tasks.storage.registry import Registry

PULLED = ".pulled"


def pinned(text: str, registry: Registry) -> Version:
    """The version that `fetch.continue_from` names by its number. ParamsError: by another word, which may mean another
    version tomorrow."""
    reference = parse_reference(text)
    if reference.number is None:
        raise ParamsError(
            f"fetch.continue_from: {text} may name another version tomorrow: write {reference.name}@vN "
            f"(tuneline models list {reference.name}), or use `tuneline run`, which fixes it for its run"
        )
    return registry.find(text)


def knows(version: Version) -> bool:
    """Whether it says which data version it was trained on."""
    data: Any = version.record["data"]
    return bool(data["version"])


def learned(version: Version) -> int:
    """The number of the data version that it was trained on. ModelError: its record does not say."""
    data: Any = version.record["data"]
    if not knows(version):
        raise ModelError(
            f"{version.reference} does not say which data version it was trained on, so that nothing tells which rows "
            "are new: continue from another version, or set fetch.continue_from: null"
        )
    return int(data["version"].removeprefix("v"))


def merged(registry: Registry, version: Version, into: Path) -> None:
    """Its merged model as a base. ModelError: it could not be merged."""
    place = into / PULLED
    registry.pull(version, "merged", place)
    standing = Standing.of(manifest.verify(place))
    if not standing.merged:
        raise ModelError(
            f"fetch.continue_from: {version.reference} is {standing.note}; only what is merged can be continued: "
            "set fetch.continue_from: null"
        )
    bases.copy(place, into)
    shutil.rmtree(place)


def frozen(registry: Registry, version: Version, into: Path) -> None:
    """Its adapter beside the original base, which lies in `into`. ModelError: it was made on another base."""
    origin: Any = version.record["base"]
    if origin.get("content") != bases.content(into):
        before = (origin.get("continues") or {}).get("reference")
        what = f"what {before} became" if before else f"another base than {origin['ref']} is now"
        raise ModelError(
            f"fetch.continue_from: the adapter of {version.reference} stands on {what}, so that it can't stay beside "
            "fetch.ref: set fetch.keep: merged"
        )
    registry.pull(version, "adapter", into / FROZEN)
    manifest.verify(into / FROZEN)
    (into / FROZEN / manifest.NAME).unlink()  # the base's own manifest accounts for its files from here on
