"""Judge every finished format against its budget: only what passes is published."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.core import events, manifest
from tasks.core.manifest import Manifest
from tasks.core.sections import QuantizeParams
from tasks.core.step import main
from tasks.data import verdicts
from tasks.data.report import evaluations as evaluated
from tasks.data.report import rulings


def judge(params: QuantizeParams, *, chat: Path, base: Path, merged: Path, evaluations: Path, out: Path) -> Manifest:
    """One verdict a format: each rule of `quantize.budget` with what was measured and what was needed.

    Likeness is that of held-out rows, measured when the format was made; metrics are compared row by row with the
    merged model's on the test rows. Law: equal inputs and rules give equal verdicts.
    DataError: a format has no evaluation on the present data.
    """
    inputs = {
        name: manifest.read(folder).digest for name, folder in (("chat", chat), ("base", base), ("merged", merged))
    }
    found = evaluated.read_all(evaluations, inputs)
    given = verdicts.of_formats(found, params)
    inputs |= {f"evaluate/{each.target}": each.manifest.digest for each in found}
    for each in given:
        events.note(rulings.sentence(each))
    with manifest.staged(out) as folder:
        lines = [each.model_dump(mode="json") | {"passed": each.passed} for each in given]
        (folder / verdicts.FILE).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
        facts = {
            "passed": [each.format for each in given if each.passed],
            "refused": [each.format for each in given if not each.passed],
        }
        return manifest.seal(folder, step="judge", inputs=inputs, params=params.model_dump(mode="json"), facts=facts)


if __name__ == "__main__":
    sys.exit(main(judge))
