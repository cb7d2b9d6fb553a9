"""Merge the adapter into the base: one plain model, in the base's own layout."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import manifest
from tasks.core.errors import ModelError
from tasks.core.manifest import Manifest
from tasks.core.sections import MergeParams
from tasks.core.step import main


def merge(params: MergeParams, *, base: Path, adapter: Path, out: Path) -> Manifest:
    """Bring the adapter into the original 16-bit weights, in float32, rounded once. Never into quantised weights.

    ModelError: the adapter does not fit the base; it names the tensor.
    """
    from tasks.ml.export import merge as export

    trained = manifest.verify(adapter)
    inputs = {"base": manifest.verify(base).digest, "adapter": trained.digest}
    if trained.inputs["base"] != inputs["base"]:
        raise ModelError(f"{adapter} was trained on another base than {base}: run dvc repro train")
    with manifest.staged(out) as folder:
        facts = export.write(base, adapter, folder, params.dtype)
        return manifest.seal(folder, step="merge", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


if __name__ == "__main__":
    sys.exit(main(merge))
