"""Finished formats as tests see them: made from a folder, and judged in a process of its own that knows only the files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ParamsError
from tests import runs

PROMPTS = [list(range(3, 17)), list(range(40, 45))]


@dataclass(frozen=True)
class Judged:
    """`near`: how near it is to its model on rows of up to 150 tokens. `same`: it generates what its model does."""

    runtime: str
    near: dict[str, float]
    same: bool
    lengths: list[int]


def find(name: str) -> tuple[Any, str]:
    """The format, or a test that is skipped with what to install."""
    from tasks.ml import export

    try:
        return export.find(name)
    except ParamsError as error:
        if "unavailable" not in str(error):
            raise
        pytest.skip(str(error))


def write(name: str, merged: Path, into: Path, **recipe: Any) -> dict[str, Any]:
    """The facts of a format that is made into a new folder."""
    from tasks.ml.export.recipe import Recipe

    format, variant = find(name)
    into.mkdir()
    return format.write(merged, into, variant, Recipe(**recipe))


def judge_anew(name: str, folder: Path, merged: Path) -> Judged:
    """In a process that has made nothing."""
    command = [sys.executable, "-m", "tests.formats", name, str(folder), str(merged)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=runs.environment())
    assert done.returncode == 0, done.stderr
    return Judged(**json.loads(done.stdout.splitlines()[-1]))


def judge(name: str, folder: Path, merged: Path) -> Judged:
    import torch

    from tasks.ml import export, fidelity, loading, serving

    served = export.find(name)[0].load(folder)
    model = serving.of(loading.load(merged, torch.float32), merged)
    rows = [runs.row(number, 2 + number * 37) for number in range(5)]
    near = fidelity.compare(model, served, rows, "rows").facts
    found, wanted = (each.generate(PROMPTS, 6, frozenset({2})) for each in (served, model))
    return Judged(served.runtime, near, found == wanted, [len(ids) for ids in found])


if __name__ == "__main__":
    print(json.dumps(asdict(judge(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))))
