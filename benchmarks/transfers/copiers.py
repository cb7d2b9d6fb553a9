"""Programs that copy folders to S3 and back, each with its own defaults."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import checkout

Command = Callable[[str, str, Path, str], list[str]]
"""Program, endpoint, folder and bucket to the command line."""


@dataclass(frozen=True)
class Copier:
    """`variable` may name another program than the one that `make peers` (or, with `package`, apt) installs."""

    name: str
    variable: str
    found: str
    up: Command
    down: Command
    package: str = ""

    @property
    def program(self) -> str:
        """Where it is; empty where it is not."""
        if named := os.environ.get(self.variable):
            return shutil.which(named) or ""
        beside = next((checkout.ROOT / ".peers" / "transfers").glob(self.found), None) if self.found else None
        return str(beside) if beside else shutil.which(self.package) or "" if self.package else ""

    def absent(self) -> str:
        """Why it can't run here; empty where it can."""
        if self.program:
            return ""
        if named := os.environ.get(self.variable):
            return f"{self.name}: {self.variable} is {named}, which can't be run: expected the path of the program"
        how = f"apt-get install {self.package}" if self.package else "make peers"
        return f"{self.name} is not installed: {how}, or let {self.variable} name the program"


def _aws(program: str, endpoint: str, source: str, target: str) -> list[str]:
    return [program, "s3", "cp", "--recursive", "--only-show-errors", "--endpoint-url", endpoint, source, target]


def _s5cmd(program: str, endpoint: str, source: str, target: str) -> list[str]:
    return [program, "--log", "error", "--endpoint-url", endpoint, "cp", source, target]


def _rclone(program: str, endpoint: str, source: str, target: str) -> list[str]:
    options = ["--config", os.devnull, "--s3-provider=Other", "--s3-env-auth", "--s3-no-check-bucket"]
    return [program, "copy", *options, "--s3-endpoint", endpoint, source, target]


COPIERS = (
    Copier(
        "aws s3 cp", "BENCHMARK_AWS", "bin/aws",
        lambda program, at, folder, bucket: _aws(program, at, str(folder), f"s3://{bucket}/model"),
        lambda program, at, folder, bucket: _aws(program, at, f"s3://{bucket}/model", str(folder)),
    ),
    Copier(
        "s5cmd", "BENCHMARK_S5CMD", "lib/python*/site-packages/s5cmd/bin/s5cmd",
        lambda program, at, folder, bucket: _s5cmd(program, at, f"{folder}/", f"s3://{bucket}/model/"),
        lambda program, at, folder, bucket: _s5cmd(program, at, f"s3://{bucket}/model/*", f"{folder}/"),
    ),
    Copier(
        "rclone", "BENCHMARK_RCLONE", "",
        lambda program, at, folder, bucket: _rclone(program, at, str(folder), f":s3:{bucket}/model"),
        lambda program, at, folder, bucket: _rclone(program, at, f":s3:{bucket}/model", str(folder)),
        package="rclone",
    ),
)  # fmt: skip
