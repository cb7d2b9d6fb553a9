"""Ingest landing files into the next version of the corpus. A door to the outside, so no DVC stage."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from tasks.core import events, manifest
from tasks.core.errors import ConflictError, DataError
from tasks.core.sections import DataParams
from tasks.core.step import main
from tasks.data import shards
from tasks.data.arrival import Account, Reader, reader
from tasks.data.profile import Profile
from tasks.data.seen import Seen
from tasks.storage import checkout
from tasks.storage.corpus import COUNTS, Arrival, Corpus, DataVersion, fresh
from tasks.storage.landing import Landing, LandingFile, place, source_of
from tasks.storage.versions import Scratch, scratch


@dataclass(frozen=True)
class Ingested:
    """What an ingest did. `version` is the newest one now, `created` whether this call made it; `left` names the files
    that could not be read this time, with the reason."""

    version: DataVersion | None
    created: bool
    left: Mapping[str, str] = field(default_factory=dict[str, str])


def ingest(params: DataParams, *, source: str, workspace: Path) -> Ingested:
    """Take every landing file of `source` (a folder, a file, s3://BUCKET/PREFIX) that no version has consumed.

    Laws: accepted + duplicate + quarantined = seen, for each file; each file is consumed once, whoever runs this how
    often; killed anywhere, it leaves the version before or the whole new one.
    DataError: no such place, or nothing there could be read.
    """
    with checkout.connected(os.environ) as environ:
        corpus, where = Corpus.open(environ), place(source, environ)
        while True:
            versions = corpus.versions()
            files = fresh(list(where.files()), where.name, versions)
            try:
                done = _take(params, corpus, versions[-1] if versions else None, where, files, workspace)
                break
            except ConflictError:
                events.note("another ingest was first; looking again at what is left")
        if done.version is not None:
            checkout.bring(workspace, corpus, done.version, params.git)
    return done


def _take(
    params: DataParams, corpus: Corpus, head: DataVersion | None, where: Landing, files: Sequence[LandingFile],
    workspace: Path,
) -> Ingested:  # fmt: skip
    if not files:
        events.note(f"nothing new in {where.name}")
        return Ingested(head, created=False)
    with scratch(workspace, corpus.remote) as room:
        build = _Build(params, room, head)
        build.begin()
        with manifest.staged(room.raw) as folder:
            build.fill(folder, where, files)
        if not build.arrivals:
            raise DataError("nothing was taken in: " + "; ".join(f"{key}: {why}" for key, why in build.left.items()))
        version = build.version(corpus, folder=room.raw)
        corpus.register(version)
    _tell(version, build.left)
    return Ingested(version, created=True, left=build.left)


class _Build:
    """The next version in the making: shards of the rows that are new, and an account of every file."""

    def __init__(self, params: DataParams, room: Scratch, head: DataVersion | None) -> None:
        self._params, self._room, self._head = params, room, head
        self._number = head.number + 1 if head else 1
        self._seen, self._forgotten = Seen(), frozenset[str]()
        self._known: tuple[str, ...] = ()
        self._added = Profile()
        self._report = room.root / "quarantine.jsonl"
        self._quarantine = self._report.open("wb")
        self.arrivals: list[Arrival] = []
        self.left: dict[str, str] = {}

    def begin(self) -> None:
        """Bring the version before, every byte checked, and learn what it holds."""
        if self._head is None:
            return
        before = checkout.restore(self._room, self._head)
        self._forgotten = frozenset(before.facts["forgotten"])
        self._known = tuple(before.files)
        for row in shards.read(self._room.raw):
            self._seen.add(row.content_digest)

    def fill(self, folder: Path, where: Landing, files: Sequence[LandingFile]) -> None:
        for name in self._known:
            os.link(self._room.raw / name, folder / name)
        size = sum(file.size for file in files)
        with (
            shards.Writer(folder, self._number) as writer,
            reader(self._params, self._seen, self._forgotten, size) as read,
        ):
            for done, file in enumerate(files):
                events.progress("ingest", done, len(files), file=file.key)
                try:
                    self.arrivals.append(self._file(file, where, writer, read))
                except DataError as error:
                    self.left[file.key] = str(error)
        events.progress("ingest", len(files), len(files))
        self._quarantine.close()
        facts = {"rows": self._before.rows + self._added.rows, "forgotten": sorted(self._forgotten)}
        manifest.seal(folder, step="ingest", inputs={}, params={}, facts=facts)

    @property
    def _before(self) -> Profile:
        return Profile.model_validate(self._head.profile) if self._head else Profile()

    def _file(self, file: LandingFile, where: Landing, writer: shards.Writer, read: Reader) -> Arrival:
        """All rows of a file, or, with a DataError, none of them."""
        local = self._room.root / "landed"
        where.bring(file, local)
        rows, refused = self._room.root / "rows.jsonl", self._room.root / "refused.jsonl"
        with rows.open("wb") as accepted, refused.open("wb") as quarantined:
            found = read.read(local, file.key, source_of(where, file.key), accepted, quarantined)
        with rows.open("rb") as lines:
            for line in lines:
                writer.write(line)
        with refused.open("rb") as lines:
            shutil.copyfileobj(lines, self._quarantine)
        self._seen.take(found.fresh)
        self._added = self._added.merge(found.profile)
        return Arrival(landing=where.name, key=file.key, etag=file.etag, size=file.size, **found.counts())

    def version(self, corpus: Corpus, *, folder: Path) -> DataVersion:
        """The record of what was built, its shards in the remote. Everything but the record stands after this."""
        sealed = manifest.read(folder)
        return DataVersion(
            number=self._number, parent=self._head.number if self._head else None, created=datetime.now(UTC),
            who=checkout.user(), action="ingest", data=sealed.digest,
            pointer=checkout.pointer(self._room.save(), self._number), rows=sealed.facts["rows"], files=sealed.files,
            arrivals=tuple(self.arrivals), quarantine=corpus.keep_report(self._report),
            profile=self._before.merge(self._added).model_dump(mode="json"), added=self._added.model_dump(mode="json"),
        )  # fmt: skip


def account(arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Totals over files, for people and scripts."""
    totals: dict[str, Any] = {name: sum(getattr(arrival, name) for arrival in arrivals) for name in COUNTS}
    reasons = sum((Counter(arrival.reasons) for arrival in arrivals), Counter[str]())
    return totals | {"reasons": dict(sorted(reasons.items()))}


def examine(params: DataParams, file: Path, quarantine: BinaryIO) -> Account:
    """What an ingest would make of one local file alone. Nothing is stored; refused rows go to `quarantine`."""
    lenient = params.model_copy(update={"max_quarantined": 1.0})
    with reader(lenient, Seen(), frozenset(), file.stat().st_size) as read, Path(os.devnull).open("wb") as nowhere:
        return read.read(file, file.name, file.parent.name, nowhere, quarantine)


def _tell(version: DataVersion, left: Mapping[str, str]) -> None:
    counts = account(version.arrivals)
    reasons = ", ".join(f"{kind} {count}" for kind, count in counts.pop("reasons").items())
    text = ", ".join(f"{name} {count}" for name, count in counts.items())
    events.note(f"{version.name}: {text}{f' ({reasons})' if reasons else ''}; {version.rows} rows in all")
    for key, why in left.items():
        events.warning(f"left for the next time: {key}: {why}")


if __name__ == "__main__":
    sys.exit(main(ingest))
