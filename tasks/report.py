"""Report a run: one comparison, samples, a model card and a self-contained page from what the other steps left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tasks.core import events, manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import ReportParams
from tasks.core.step import main
from tasks.data import slices
from tasks.data import verdicts as judged
from tasks.data.report import card, comparison, lineage, page, samples, tables, training
from tasks.data.report import evaluations as evaluated


def report(
    params: ReportParams,
    *,
    chat: Path,
    base: Path,
    adapter: Path,
    merged: Path,
    train: Path,
    evaluations: Path,
    verdicts: Path,
    out: Path,
) -> Manifest:
    """Compare every target evaluated on the present data with the base, and show the run on one page.

    Law: equal inputs give equal bytes.
    DataError: the base, or every other target, has no evaluation of the present data.
    IntegrityError: the verdicts are damaged.
    """
    folders = {"chat": chat, "base": base, "adapter": adapter, "merged": merged}
    inputs = {name: manifest.read(folder).digest for name, folder in folders.items()}
    found = evaluated.read_all(evaluations, inputs)
    origin = lineage.read(**folders, train=train, evaluations=found)
    given = judged.read(verdicts)
    table = comparison.compare(found, given, origin.trained)
    parts = {
        each.target: slices.of(each.judged)
        for each in found
        if each.target in {row.target for row in (table.base, table.tuned, table.quantized) if row}
    }
    made = [each for each in found if each.measured.made]
    shown = samples.choose(made, params.samples, (table.quantized or table.tuned).target)
    inputs |= {"train": manifest.read(train).digest, "verdicts": manifest.verify(verdicts).digest}
    inputs |= {f"evaluate/{each.target}": each.manifest.digest for each in found}
    with manifest.staged(out) as folder:
        _write(folder / "metrics.json", comparison.figures(table.quality))
        _write(folder / "efficiency.json", comparison.figures(table.efficiency) if table.efficiency else {})
        _write(folder / comparison.FILE, table.model_dump(mode="json"))
        _write(
            folder / "slices.json",
            {target: [part.model_dump(mode="json") for part in own] for target, own in parts.items()},
        )
        _write(folder / "samples.json", [sample.model_dump(mode="json") for sample in shown])
        (folder / "README.md").write_text(card.render(table, origin), encoding="utf-8")
        html = page.render(table, origin, training.read(train), shown, found, given, parts[table.tuned.target])
        (folder / "index.html").write_text(html, encoding="utf-8")
        events.note(tables.as_text(table))
        facts = {"targets": [each.target for each in made], "tested": table.tested}
        return manifest.seal(folder, step="report", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(report))
