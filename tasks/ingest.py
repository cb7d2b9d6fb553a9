"""Ingest landing files into the raw corpus: every row checked, exact duplicates counted once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.errors import DataError
from tasks.core.manifest import Manifest
from tasks.core.step import main
from tasks.data import rows


def ingest(*, source: Path, out: Path) -> Manifest:
    """Append the rows of `source` (one .jsonl file, or a folder of them) to the corpus `out`, a shard an arrival.

    Law: accepted + duplicate = seen. Taking the same files in again changes no byte.
    DataError: a malformed row, by file and line; the corpus is as before.
    """
    arrivals = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    if not arrivals or not all(file.is_file() and file.suffix == ".jsonl" for file in arrivals):
        raise DataError(f"{source}: no .jsonl file there; expected such a file or a folder of them")
    known = manifest.verify(out).files if out.is_dir() else {}
    with manifest.staged(out) as folder:
        for name in known:
            shutil.copyfile(out / name, folder / name)
        seen = {row.content_digest for row in rows.read_folder(folder)}
        counts = {"seen": 0, "accepted": 0, "duplicate": 0}
        for arrival in arrivals:
            _take(arrival, folder, seen, counts)
        events.note(" ".join(f"{name} {count}" for name, count in counts.items()))
        total = sum(1 for _ in rows.read_folder(folder))
        return manifest.seal(folder, step="ingest", inputs={}, params={}, facts={"rows": total})


def _take(arrival: Path, folder: Path, seen: set[str], counts: dict[str, int]) -> None:
    """Write the rows of one arrival that are new as its shard."""
    fresh: list[str] = []
    for row in rows.read(arrival):
        counts["seen"] += 1
        new = row.content_digest not in seen
        counts["accepted" if new else "duplicate"] += 1
        if new:
            seen.add(row.content_digest)
            fresh.append(row.to_line())
    if fresh:
        shard = folder / arrival.name
        number = 2
        while shard.exists():  # the same name came before with other rows
            shard, number = folder / f"{arrival.stem}-{number}.jsonl", number + 1
        shard.write_text("".join(fresh), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(ingest))
