"""`tuneline up` serves until it is told to stop; other commands find its services; afterwards nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.services import SIGN_IN
from tasks.core.errors import ServiceError
from tests.project import Project


def belonging(folder: Path) -> Iterator[str]:
    """Command lines of processes that work in the folder, or name it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            inside = (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if int(entry.name) != os.getpid() and (inside or str(folder) in words):
            yield words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_is_found_by_others_and_leaves_nothing_running(
    tmp_path: Path, tiny_base: Path, number: signal.Signals
) -> None:
    project = Project(tmp_path / "project", tiny_base, {})
    up = project.start("tuneline", "up")
    assert up.stdout is not None
    lines = [up.stdout.readline() for _ in range(5)]
    assert lines[1].split()[-2] == str(SIGN_IN) and lines[4].startswith("Ctrl-C")
    address = lines[0].split()[-1]
    with urllib.request.urlopen(f"{address}/api/health") as answer:
        assert answer.status == 200
    assert json.loads(project("tuneline", "models", "list", "--json").stdout) == []
    with urllib.request.urlopen(f"{address}/api/health") as answer:
        assert answer.status == 200  # the command used these services and left them alone
    refused = project("tuneline", "up", code=ServiceError.exit_code).stderr
    assert "another one serves this checkout already" in refused
    time.sleep(1)
    up.send_signal(number)
    _, err = up.communicate(timeout=60)
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while list(belonging(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list(belonging(tmp_path)) == []


def test_a_command_alone_starts_what_it_needs_and_stops_it(tmp_path: Path, tiny_base: Path) -> None:
    project = Project(tmp_path / "project", tiny_base, {})
    told = json.loads(project("tuneline", "doctor", "--json").stdout)
    assert told["ok"] and {"store", "base model", "disk", "accelerator"} <= {
        finding["check"] for finding in told["findings"]
    }
    assert list(belonging(tmp_path)) == []
