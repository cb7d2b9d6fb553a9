"""What every model is asked beside the test rows: the suites of the params, read and checked. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.core import digest
from tasks.core.errors import ParamsError
from tasks.core.sections import EvaluateParams
from tasks.data import suites
from tasks.data.suites import Item
from tasks.ml import harness

Asked = Mapping[str, tuple[Item, ...] | Path]
"""By name: a suite's items, or the file of a task of lm-evaluation-harness."""


def read(params: EvaluateParams, folder: Path) -> Asked:
    """ParamsError: there is no such folder (every evaluation depends on it) or suite. DataError: a line is no item."""
    if not folder.is_dir():
        raise ParamsError(f"there is no folder {folder}, where evaluation looks for suites: make it, empty if need be")
    return {name: _one(params, folder, name) for name in params.suites}


def _one(params: EvaluateParams, folder: Path, name: str) -> tuple[Item, ...] | Path:
    task = harness.path(folder, name)
    if task.is_file() and not suites.path(folder, name).exists():
        harness.check(task)
        return task
    return suites.sample(suites.read(folder, name), params.suite_items)


def digests(folder: Path, asked: Asked) -> dict[str, str]:
    """By `suite/NAME`, of the file."""
    return {
        f"suite/{name}": digest.of_file(own if isinstance(own, Path) else suites.path(folder, name))
        for name, own in asked.items()
    }
