"""Forget rows: the next data version lacks them, and remembers that it does. A door to the outside, so no DVC stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.errors import ConflictError, DataError
from tasks.core.sections import DataParams
from tasks.core.step import main
from tasks.data import selection, shards
from tasks.data.profile import Accumulator, Profile
from tasks.data.selection import Selection
from tasks.storage import checkout
from tasks.storage.corpus import Corpus, DataVersion, Forgotten
from tasks.storage.versions import Scratch, scratch


def forget(params: DataParams, *, where: str, workspace: Path) -> DataVersion:
    """Make a version without the rows that `where` means (`tag=x`, `source=x`, `id=x`, `text~REGEX`).

    Their digests stay, so that the same rows are refused when they arrive again. Earlier versions keep their bytes.
    DataError: no row matches.
    """
    return forget_selected(params, selection.parse([where]), workspace)


def forget_selected(params: DataParams, chosen: Selection, workspace: Path) -> DataVersion:
    """As `forget`, with any number of conditions."""
    with checkout.connected(os.environ) as environ:
        corpus = Corpus.open(environ)
        while True:
            try:
                version = _without(corpus, corpus.read("latest"), chosen, workspace)
                break
            except ConflictError:
                events.note("an ingest was first; looking again")
        checkout.bring(workspace, corpus, version, params.git)
    return version


def matching(chosen: Selection, workspace: Path) -> list[str]:
    """Ids of the rows of the newest version that would be forgotten."""
    with checkout.connected(os.environ) as environ:
        corpus = Corpus.open(environ)
        with scratch(workspace, corpus.remote) as room:
            checkout.restore(room, corpus.read("latest"))
            return [row.id for row in shards.read(room.raw) if chosen(row)]


def _without(corpus: Corpus, head: DataVersion, chosen: Selection, workspace: Path) -> DataVersion:
    with scratch(workspace, corpus.remote) as room:
        before = checkout.restore(room, head)
        with manifest.staged(room.raw) as folder:
            gone, kept = _filter(shards.files(room.raw), folder, chosen)
            if not gone:
                raise DataError(f"no row of {head.name} matches {chosen}: nothing to forget")
            forgotten = sorted({*before.facts["forgotten"], *gone})
            manifest.seal(
                folder, step="ingest", inputs={}, params={}, facts={"rows": kept.rows, "forgotten": forgotten}
            )
        version = _record(head, room, chosen, len(gone), kept)
        corpus.register(version)
    events.note(f"{version.name}: {len(gone)} rows forgotten, {version.rows} rows in all")
    return version


def _filter(old: Sequence[Path], folder: Path, chosen: Selection) -> tuple[list[str], Profile]:
    """Copy every row that is not chosen into shards of the same names; digests of the others, and the rest's profile."""
    gone, rest = list[str](), Accumulator()
    for shard in old:
        kept = list[bytes]()
        for row in shards.read_shards([shard]):
            if chosen(row):
                gone.append(row.content_digest)
            else:
                rest.add(row)
                kept.append(row.to_line())
        if kept:
            shards.write(folder / shard.name, kept)
    return gone, rest.profile()


def _record(head: DataVersion, room: Scratch, chosen: Selection, gone: int, kept: Profile) -> DataVersion:
    sealed = manifest.read(room.raw)
    number = head.number + 1
    return DataVersion(
        number=number, parent=head.number, created=datetime.now(UTC), who=checkout.user(), action="forget",
        data=sealed.digest, pointer=checkout.pointer(room.save(), number), rows=sealed.facts["rows"],
        files=sealed.files, forgotten=Forgotten(where=str(chosen), rows=gone), profile=kept.model_dump(mode="json"),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(forget))
