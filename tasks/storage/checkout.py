"""A checkout and the data version that lies in it: bringing one there, checking it, saying which it is."""

from __future__ import annotations

import fcntl
import getpass
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml

from tasks.core import layout, manifest
from tasks.core.errors import DataError, IntegrityError
from tasks.core.manifest import Manifest
from tasks.storage import embedded, revision
from tasks.storage.corpus import Corpus, DataVersion
from tasks.storage.process import held
from tasks.storage.versions import Pipeline, Scratch, scratch

META = "tuneline_version"


@contextmanager
def connected(environ: Mapping[str, str]) -> Generator[dict[str, str]]:
    """The environment in which a store answers: the embedded one's, unless `TUNELINE_REGISTRY` names another.

    DVC's S3 client reads the process's own environment, so that is set too, for the length of the block.
    """
    if "TUNELINE_REGISTRY" in environ:
        yield dict(environ)
        return
    before = dict(os.environ)
    with embedded.s3(Path.cwd() / layout.HOME) as store:
        os.environ.update(store.environment())
        try:
            yield {**environ, **store.environment()}
        finally:
            os.environ.clear()
            os.environ.update(before)


def restore(room: Scratch, version: DataVersion) -> Manifest:
    """The version's corpus in the scratch place, every byte checked against the record."""
    return _checked(room.restore(version.pointer), version)


def _checked(raw: Path, version: DataVersion) -> Manifest:
    """DVC hands out altered cache files without a word; the remote's copy is most likely whole."""
    try:
        found = manifest.verify(raw)
    except IntegrityError as error:
        what = str(error).partition(". ")[0]
    else:
        if found.digest == version.data:
            return found
        what = f"{raw} is another corpus than the record of {version.name} names"
    raise IntegrityError(
        f"{what}: delete .dvc/cache/files, then run `tuneline data checkout {version.name}`, which fetches it anew; "
        "if that says the same, restore the remote from a backup"
    )


def bring(checkout: Path, corpus: Corpus, version: DataVersion, git: str = "none") -> None:
    """Make data/raw the version, and `data/raw.dvc` its pointer; `git` says whether that is committed or tagged.

    Law: data/raw is the old version or the whole new one. DataError: files lie there that no version has.
    """
    raw, pointer = checkout / layout.RAW, checkout / f"{layout.RAW}.dvc"
    _refuse_foreign(raw)
    (checkout / layout.HOME).mkdir(exist_ok=True)
    with held(checkout / layout.HOME / "data.lock", fcntl.LOCK_EX):
        if current(checkout) != version.name or not _lies(raw, version):
            with scratch(checkout, corpus.remote) as room:
                restore(room, version)
            partial = pointer.with_name(pointer.name + ".partial")
            pointer.parent.mkdir(exist_ok=True)
            partial.write_text(version.pointer, encoding="utf-8")
            partial.replace(pointer)
            Pipeline(checkout).checkout(layout.RAW)
            _checked(raw, version)
        if git != "none":
            tag = f"data/{version.name}" if git == "tag" else None
            revision.record(checkout, pointer.relative_to(checkout), f"Data version {version.name}", tag)


def _lies(raw: Path, version: DataVersion) -> bool:
    """Whether the folder is the version, byte for byte."""
    try:
        return raw.exists() and manifest.verify(raw).digest == version.data
    except IntegrityError:
        return False


def current(checkout: Path) -> str | None:
    """The name of the version whose pointer lies in the checkout; None where there is none, or one made by hand."""
    file = checkout / f"{layout.RAW}.dvc"
    if not file.is_file():
        return None
    value: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    meta = cast("dict[str, Any]", value.get("meta", {})) if isinstance(value, dict) else {}
    return f"v{meta[META]}" if META in meta else None


def pointer(text: str, number: int) -> str:
    """DVC's pointer, naming the data version it belongs to in the part that DVC keeps for others."""
    value: dict[str, Any] = yaml.safe_load(text)
    return yaml.safe_dump({**value, "meta": {META: number}}, sort_keys=False)


def user() -> str:
    """Who acts; a container's user may have a number and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _refuse_foreign(raw: Path) -> None:
    if raw.is_symlink() or (raw.exists() and not raw.is_dir()):
        raise DataError(f"{raw} is a file or a link where the corpus would go: move it away")
    if raw.is_dir() and any(raw.iterdir()) and not (raw / manifest.NAME).exists():
        raise DataError(f"{raw} holds files that no data version has: move them away, then run the command again")
