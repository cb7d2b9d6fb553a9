"""Merge the adapter into the base: one plain model, in the base's own layout."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import MergeParams
from tasks.core.step import main


def merge(params: MergeParams, *, base: Path, adapter: Path, out: Path) -> Manifest:
    """Add the adapter to the original 16-bit weights, in float32, rounded once. Never into quantised weights.

    ModelError: the adapter does not fit the base; it names the tensor.
    """
    from tasks.ml.export import merge as export

    inputs = {"base": manifest.verify(base).digest, "adapter": manifest.verify(adapter).digest}
    with manifest.staged(out) as folder:
        facts = export.write(base, adapter, folder, params.dtype)
        return manifest.seal(folder, step="merge", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


if __name__ == "__main__":
    sys.exit(main(merge))
