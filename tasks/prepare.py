"""Prepare the training set: rows judged, split by prompt, rendered by the model's template, tokenised, masked, packed."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import PrepareParams
from tasks.core.step import main


def prepare(params: PrepareParams, *, raw: Path, base: Path, out: Path, report: Path) -> Manifest:
    """Turn the corpus into packs to train on, and examples to validate and test on; the data card goes to `report`.

    Laws: every row is in exactly one split, or dropped, or held out, by name and reason; equal inputs give equal bytes,
    whatever the number of processes; memory does not grow with the corpus but for about a hundred bytes a row.
    DataError: an empty split that is needed, or more rows that do not fit than `prepare.max_dropped`.
    """
    from tasks.data import assembly
    from tasks.data.report import datacard

    inputs = {"raw": manifest.verify(raw).digest, "base": manifest.verify(base).digest}
    values = params.model_dump(mode="json")
    with manifest.staged(out) as folder, manifest.staged(report) as told:
        made = assembly.assemble(params, raw, base, folder, told)
        datacard.write(told, made.card)
        manifest.seal(told, step="prepare", inputs=inputs, params=values, facts=made.facts)
        events.note("rows " + ", ".join(f"{name} {count}" for name, count in made.facts["rows"].items()))
        return manifest.seal(folder, step="prepare", inputs=inputs, params=values, facts=made.facts)


if __name__ == "__main__":
    sys.exit(main(prepare))
