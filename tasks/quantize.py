"""Quantise the merged model into one of the finished formats."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import manifest
from tasks.core.manifest import Manifest
from tasks.core.step import main
from tasks.ml import export


def quantize(*, format: str, merged: Path, out: Path) -> Manifest:
    """Make one format from the merged model. Each is its own output, so adding one re-makes no other.

    ParamsError: no such format, or the package that makes it is not installed.
    """
    writer, variant = export.find(format)
    source = manifest.verify(merged)
    with manifest.staged(out) as folder:
        facts = writer.write(merged, folder, variant)
        return manifest.seal(
            folder, step="quantize", inputs={"merged": source.digest}, params={}, facts={"format": format, **facts}
        )


if __name__ == "__main__":
    sys.exit(main(quantize))
