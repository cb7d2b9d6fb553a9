"""A model version to the registry and back, on a real SeaweedFS: the line against aws s3 cp, s5cmd and rclone.

2 GB of random bytes: four big shards, an adapter of a hundredth, ten small files. First the whole to an empty bucket; then
again with another adapter, where the shards are there already; then back, digests checked. The peers copy the same folder
with their own defaults; their downloads once more until the files are on the disk, where the line's are.
Every contender is a process of its own, from its start to its end. The store's own work is not in their processor time.

`make peers` installs aws and s5cmd, apt rclone; one that is not there is left out of the tables.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `python benchmarks/NAME.py` looks beside the script only

from benchmarks import harness
from benchmarks.harness import Comparison, Figure, Findings, Options, figures, table
from benchmarks.transfers import model
from benchmarks.transfers.copiers import COPIERS, Copier
from benchmarks.transfers.room import OURS, Room
from tasks.storage import embedded

MEGABYTES, QUICK_MEGABYTES = 2_000, 40


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main("registry", __doc__, measured, rounds=4, quick_rounds=1, argv=argv)


def measured(options: Options) -> Findings:
    megabytes = QUICK_MEGABYTES if options.quick else MEGABYTES
    copiers = [copier for copier in COPIERS if not copier.absent()]
    with tempfile.TemporaryDirectory(prefix="registry-") as name, embedded.s3(Path(name) / "store") as s3:
        room = Room(s3, Path(name), megabytes)
        model.write(room.source, megabytes)
        parts = [
            _first(room, copiers, options.rounds),
            _again(room, options.rounds),
            _back(room, copiers, options.rounds),
        ]
    notes = [f"not compared: {reason}" for copier in COPIERS if (reason := copier.absent())]
    return Findings(
        {name: value for part in parts for name, value in part.ratios.items()},
        {name: value for part in parts for name, value in part.absolute.items()},
        [*(text for part in parts for text in part.tables), *notes],
        {name: value for part in parts for name, value in part.failures.items()},
    )  # fmt: skip


def _first(room: Room, copiers: Sequence[Copier], rounds: int) -> Findings:
    comparison = harness.compare([room.publishes(), *map(room.uploads, copiers)], rounds)
    return _named("publish", _against(comparison, f"{room.megabytes:,} MB to an empty bucket"))


def _again(room: Room, rounds: int) -> Findings:
    """Bytes that are sent where a version with the same shards stands."""
    room.fill(room.publishes())
    contender = room.publishes_again()
    comparison = harness.compare([contender], rounds)
    found = harness.findings(f"{room.megabytes:,} MB again, with a new adapter", comparison)
    runs = comparison.runs.get(contender.name, ())
    if not runs:
        return _named("again", found)
    share = Figure.of([run.result["sent_bytes"] / run.result["bytes"] for run in runs])
    lines = [[contender.name, f"{runs[-1].result['sent_bytes']:,}", f"{100 * share.high:.2f}%"]]
    shown = table("Bytes sent again", ["contender", "bytes", "of the version"], lines)
    ratios = {**found.ratios, "sent / whole": share.as_json()}
    return _named("again", replace(found, ratios=ratios, tables=[*found.tables, shown]))


def _back(room: Room, copiers: Sequence[Copier], rounds: int) -> Findings:
    for contender in (room.publishes(), *map(room.uploads, copiers)):
        room.fill(contender)
    downloads = [room.downloads(copier, synced=synced) for copier in copiers for synced in (False, True)]
    comparison = harness.compare([room.pulls(), *downloads], rounds)
    return _named("pull", _against(comparison, f"{room.megabytes:,} MB back, the line's with its digests checked"))


def _against(comparison: Comparison, title: str) -> Findings:
    """The usual table, and the line's time over each peer's."""
    found = harness.findings(title, comparison)
    if OURS not in comparison.runs:
        return found
    ratios = {
        f"wall, {OURS} / {other}": figures.ratios(comparison.runs, other, "wall_seconds")[OURS]
        for other in comparison.runs
        if other != OURS
    }
    rows = [[label, harness.spread(figure)] for label, figure in ratios.items()]
    shown = [table(f"Ratios, {title}", ["ratio", "value"], rows)] if rows else []
    return replace(
        found, ratios={label: figure.as_json() for label, figure in ratios.items()}, tables=[*found.tables, *shown]
    )


def _named(part: str, found: Findings) -> Findings:
    """The names of one part kept apart from those of the others."""
    return Findings(
        {f"{part}: {name}": value for name, value in found.ratios.items()},
        {f"{part}: {name}": value for name, value in found.absolute.items()},
        found.tables,
        {f"{part}: {name}": value for name, value in found.failures.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
