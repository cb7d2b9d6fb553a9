"""On an NVIDIA GPU. Where none is, that is said, and nothing is measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Findings, Options


def measured(options: Options, folder: Path, base: Path) -> Findings:
    raise NotImplementedError
