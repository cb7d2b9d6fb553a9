"""A checkout of the project with a tiny base, and the commands a user would type in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from tasks.core import layout
from tests import tiny

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


class Project:
    """A checkout of the project with the tiny base, and the commands a user would type in it."""

    def __init__(self, folder: Path, base: Path, environment: dict[str, str], **sections: dict[str, Any]) -> None:
        self.folder = folder
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PREFECT_", "TUNELINE_"))
        }
        environment = dict(environment)
        if "TUNELINE_REGISTRY" in environment:  # data versions of one project are not another's
            environment["TUNELINE_REGISTRY"] += f"/{uuid.uuid4().hex[:12]}"
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**clean, **environment, "PATH": path, "TUNELINE_THREADS": "1"}
        for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
        for name in ("flows", "tasks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / layout.SUITES, folder / layout.SUITES)
        (folder / "params.yaml").write_text(yaml.safe_dump(tiny.params(base, **sections)))
        tiny.write_rows(folder / "data" / "sample" / "day1.jsonl", 60)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            self("git", "-c", "user.name=t", "-c", "user.email=t@localhost", *command)

    def start(self, *command: str, to: IO[str] | None = None, **more: str) -> subprocess.Popen[str]:
        """What it says goes to two pipes, or to one file."""
        return subprocess.Popen(
            command, cwd=self.folder, env={**self.environment, **more}, text=True, stdout=to or subprocess.PIPE,
            stderr=subprocess.STDOUT if to else subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *command: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, **more)
        out, err = process.communicate(timeout=900)
        assert process.returncode == code, f"{command} ended with {process.returncode}:\n{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run(self, *options: str) -> dict[str, Any]:
        return json.loads(self("tuneline", "run", "--json", *options).stdout)

    def checkpoints(self) -> list[Path]:
        return list(self.folder.glob(".work/checkpoints/*/step-*/manifest.json"))


@dataclass(frozen=True)
class Ran:
    """A project after its first run: what the run was expected to do, and what it said at its end."""

    project: Project
    name: str
    plan: list[dict[str, Any]]
    outcome: dict[str, Any]
