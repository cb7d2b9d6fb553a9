"""What can be known before anything runs is said before anything runs. Loads no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tasks.core import layout
from tasks.core.errors import ResourceError
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
