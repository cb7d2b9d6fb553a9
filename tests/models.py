"""`tuneline models` in a project with small versions of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.storage.registry import Registry
from tests.project import Project
from tests.registries import publish


def published(folder: Path, base: Path, services: Mapping[str, str], *numbers: int) -> Project:
    """Versions of `desk`, as `publish` registers them."""
    made = Project(folder / "project", base, dict(services))
    registry = Registry.open(made.environment)
    registry.store.ensure_bucket()
    for number in numbers:
        publish(registry, folder, number, "desk")
    return made


def ask(project: Project, *words: str, code: int = 0, **more: str) -> Any:
    return json.loads(project("tuneline", "models", *words, "--json", code=code, **more).stdout)


def say(project: Project, *words: str, code: int = 0, **more: str) -> str:
    done = project("tuneline", "models", *words, code=code, **more)
    return done.stderr if code else done.stdout
