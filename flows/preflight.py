"""What can be known before anything runs is said before anything runs. Loads no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tasks.core import layout
from tasks.core.errors import ParamsError, ResourceError
from tasks.core.params import Params
from tasks.ml import asked, engines, export, loggers, methods, metrics
from tasks.storage import bases, judging, keys

FREE_BYTES = 3 << 30
"""A run of the default base leaves about 1.3 GB of outputs and as much again in checkpoints and temporary files."""


def check(params: Params) -> None:
    """ParamsError, ModelError or ResourceError: the first thing that would stop the run later."""
    methods.find(params.train)
    loggers.check(os.environ)
    keys.signer(os.environ)
    metrics.check(params.evaluate)
    judging.of(params.evaluate, os.environ)
    engines.check(params.evaluate.engine)
    asked.read(params.evaluate, layout.SUITES)
    for format in params.quantize.formats:
        export.find(format)
    bases.find(params.fetch.ref, params.fetch.revision)
    free = shutil.disk_usage(Path.cwd()).free
    if free < FREE_BYTES:
        raise ResourceError(
            f"{free / 1e9:.1f} GB are free here and a run needs {FREE_BYTES / 1e9:.1f} GB: free some space"
        )


def check_form(chosen: Params, written: Params) -> None:
    """ParamsError: a form names code, files or addresses that params.yaml does not: whoever may start a run in the UI need
    not be allowed to run code on this machine, or to read all of it."""
    asked, allowed = _outside(chosen), _outside(written)
    for path, value in asked.items():
        if value and value != allowed[path]:
            raise ParamsError(
                f"{path}: {value!r} is not what params.yaml says, and only that may name code, files or addresses: change it there"
            )


def _outside(params: Params) -> dict[str, object]:
    """What leads out of the project."""
    return {
        "fetch.ref": None if params.fetch.ref.startswith("hub:") else params.fetch.ref,
        "evaluate.metrics": [name for name in params.evaluate.metrics if ":" in name],
        "evaluate.bertscore": params.evaluate.bertscore,
        "evaluate.judge": params.evaluate.judge,
        "merge.also": params.merge.also,
        "train.options": [value for value in params.train.options.values() if isinstance(value, str) and "/" in value],
    }  # fmt: skip
