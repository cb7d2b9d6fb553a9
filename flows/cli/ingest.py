"""`tuneline ingest`: landing files into data/raw, which becomes a new data version."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import events, layout, manifest
from tasks.core.errors import DataError

if TYPE_CHECKING:
    from tasks.storage.versions import Pipeline


def main(arguments: argparse.Namespace) -> int:
    from tasks.ingest import ingest
    from tasks.storage.versions import Pipeline

    events.send_to(events.Terminal())
    pointer = Path(f"{layout.RAW}.dvc")
    before = pointer.read_bytes() if pointer.exists() else None
    pipeline = Pipeline(Path.cwd())
    lost = before is not None and not layout.RAW.exists() and not _restored(pipeline)
    ingest(source=arguments.source, out=layout.RAW)
    pipeline.track(layout.RAW)
    if lost and before is not None and pointer.read_bytes() != before:
        pointer.write_bytes(before)
        shutil.rmtree(layout.RAW)
        raise DataError(
            f"{pointer} names a data version that the cache lacks, and {arguments.source} alone is not that version: "
            f"bring it with `dvc pull`, or remove {pointer} to begin a new corpus"
        )
    print(f"data/raw holds {manifest.read(layout.RAW).facts['rows']} rows")
    return 0


def _restored(pipeline: Pipeline) -> bool:
    try:
        pipeline.checkout(layout.RAW)
    except DataError:
        return False
    return True
