"""GPTQ and AWQ by llm-compressor in an environment of its own, in the layout of compressed-tensors.

llm-compressor wants an older transformers than ours; what it writes, ours reads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import weights
from tasks.core.errors import DISK_FULL, ModelError, ResourceError

if TYPE_CHECKING:
    from tasks.ml.export.recipe import Recipe

SCRIPT = Path(__file__).parent / "foreign" / "compress.py"
GROUPS = (128, 64, 32)
"""Weights that share a scale: the most that divide every matrix's width. All of them have fast products on GPUs."""


def python() -> Path:
    """The interpreter of that environment: beside our own virtual environment, or where TUNELINE_FORMATS says."""
    folder = os.environ.get("TUNELINE_FORMATS")
    return (Path(folder) if folder else Path(sys.prefix).parent / ".formats") / "llmcompressor" / "bin" / "python"


def missing() -> str | None:
    if not importlib.util.find_spec("compressed_tensors"):
        return "pip install 'tuneline[compressed]'"
    return None if python().exists() else f"make formats (it makes {python().parent.parent})"


def write(merged: Path, into: Path, method: str, recipe: Recipe) -> dict[str, Any]:
    """Quantise on the calibration rows, and look at what was saved. ModelError: llm-compressor can't, in its words."""
    from tasks.ml import saved
    from tasks.ml.export import companions

    saved.check_plain(merged)
    if not recipe.calibration:
        raise ModelError(
            f"{method} learns from rows of the training split, and there are none: set quantize.calibration"
        )
    group, narrow = _group(merged, recipe.keep)
    job: dict[str, Any] = {
        "merged": str(merged.resolve()), "into": str(into.resolve()), "method": method, "group": group,
        "dtype": str(saved.dtype(merged)).removeprefix("torch."), "keep": [*sorted(recipe.keep), *narrow],
        "rows": [list(row.ids) for row in recipe.calibration],
        "threads": int(os.environ.get("TUNELINE_THREADS", len(os.sched_getaffinity(0)))),
    }  # fmt: skip
    _run(merged, into, job)
    for shard in weights.shards(into):
        shard.chmod(0o644)  # it comes readable by its owner alone
    companions.copy(merged, into)
    return {"group": group, **saved.look(merged, into, recipe.keep, bits=5.5)}


def _group(merged: Path, keep: Collection[str]) -> tuple[int, list[str]]:
    """The size of a group, and the matrices that it does not divide."""
    from tasks.ml import saved

    stored = {name: place for shard in weights.shards(merged) for name, place in weights.header(shard).items()}
    widths = {
        name: stored[f"{name}.weight"].shape[1] for name in saved.matrices(merged) if not saved.within(name, keep)
    }
    group = next((size for size in GROUPS if not any(width % size for width in widths.values())), GROUPS[-1])
    return group, sorted(name for name, width in widths.items() if width % group)


def _run(merged: Path, into: Path, job: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        command = [str(python()), "-I", str(SCRIPT), str(file)]
        alone = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=scratch, env=alone, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No space left on device" in done.stderr:
            raise ResourceError(f"{into}: {DISK_FULL}")
        raise ModelError(f"{merged}: llm-compressor failed: {_said(done.stderr):.300}")


def _said(stderr: str) -> str:
    """The first line of the last error: what follows it on further lines is advice."""
    lines = stderr.rpartition("Traceback (most recent call last):")[2].strip("\n").splitlines()
    return next((line for line in lines if line.strip() and not line.startswith(" ")), "no message")
