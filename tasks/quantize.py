"""Quantise the merged model into one of the finished formats."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.manifest import Manifest
from tasks.core.standing import Standing
from tasks.core.step import main
from tasks.ml import export


def quantize(*, format: str, merged: Path, out: Path) -> Manifest:
    """Make one format from the merged model. Each is its own output, so adding one re-makes no other.

    An adapter that stands beside its base is carried along; a format without room for one is not made, and says why.
    ParamsError: no such format, or the package that makes it is not installed.
    """
    from tasks.ml.export.recipe import Recipe

    writer, variant = export.find(format)
    source = manifest.verify(merged)
    standing = _standing(format, Standing.of(source), writer.CARRIES)
    with manifest.staged(out) as folder:
        facts = {"format": format, **standing.facts}
        if standing.made:
            facts |= writer.write(merged, folder, variant, Recipe())
            if not standing.merged:
                export.carry(merged, folder)
        else:
            events.warning(f"{format} is {standing.note}")
        return manifest.seal(folder, step="quantize", inputs={"merged": source.digest}, params={}, facts=facts)


def _standing(format: str, merged: Standing, carries: bool) -> Standing:
    if merged.merged or carries:
        return merged
    return Standing(
        merged=False, made=False, why=f"{format} has no room for an adapter beside the weights, and {merged.why}"
    )


if __name__ == "__main__":
    sys.exit(main(quantize))
