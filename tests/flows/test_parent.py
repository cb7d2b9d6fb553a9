"""A served run has one process, which ends with the one that serves it; any other process is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flows import parent
from flows.parent import VARIABLE
from tests.project import ROOT

RUN = """
import os, sys
from flows import parent
parent.watch(os.environ, sys.argv[1])
print("runs", flush=True)
sys.stdin.read()
"""
SERVE = """
import os, subprocess, sys
code, variable, run = sys.argv[1:]
child = subprocess.Popen([sys.executable, "-c", code, run], stdin=subprocess.PIPE, env={**os.environ, variable: str(os.getpid())})
child.wait()
"""


def begin(folder: Path, run: str, served_by: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, run], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(served_by)},
    )  # fmt: skip


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_run_has_one_process_until_that_is_gone(tmp_path: Path) -> None:
    first, other = begin(tmp_path, "one", os.getpid()), begin(tmp_path, "two", os.getpid())
    assert says(first) == says(other) == "runs"
    second = begin(tmp_path, "one", os.getpid())
    assert second.communicate() == ("", None) and second.returncode == 0
    first.kill()
    first.communicate()
    third = begin(tmp_path, "one", os.getpid())
    assert says(third) == "runs"
    assert {lock.name for lock in (tmp_path / parent.LOCKS).iterdir()} == {"one", "two"}
    for process in (other, third):
        process.communicate()
        assert process.returncode == 0
    assert not list((tmp_path / parent.LOCKS).iterdir())


def test_a_process_that_nobody_serves_is_left_alone(tmp_path: Path) -> None:
    both = [begin(tmp_path, "one", 1) for _ in range(2)]
    assert [says(process) for process in both] == ["runs", "runs"]
    for process in both:
        process.communicate()
    assert not (tmp_path / parent.LOCKS).exists()


def test_it_ends_with_the_one_that_serves_it(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, RUN, VARIABLE, "one"], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert says(server) == "runs"
    server.kill()
    assert server.stdout is not None and server.stdout.read() == "", "the pipe is closed by the last that has it"
