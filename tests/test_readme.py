"""The README's commands run as they stand there, in the project that a first run has left."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.project import Ran

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme_works(ran: Ran) -> None:
    done = 0
    for command in commands():
        if command[0] == "make":
            subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, check=True, capture_output=True)
        elif command == ["tuneline", "doctor"]:
            told = ran.project(*command)
            assert "conditional writes honoured" in told.stdout
        else:
            ran.project(*command)
        done += 1
    assert done == 16
    assert (ran.project.folder / "model" / "model.safetensors").is_file()


def test_the_readme_names_what_is_there() -> None:
    assert len(README.splitlines()) <= 150
    places = re.findall(r"^\| `([^`]+)`", README, re.MULTILINE)
    here = [place for place in places if "=" not in place and not place.isupper() and not place.startswith("reports/")]
    assert len(here) >= 8
    for place in here:
        assert (ROOT / place).exists(), place
    for target in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / target).exists(), target
