"""One run of one contender: a child process, measured with everything that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil

LAUNCHER = Path(__file__).with_name("launcher.py")
SAMPLE_SECONDS = 0.2
"""A look at the tree costs about 2 ms; more often it would disturb what it measures."""
GRACE_SECONDS = 15.0
"""For what the command left running, and between SIGTERM and SIGKILL."""


class Unprepared(Exception):
    """The state that a contender starts from can't be made; the message says why."""


@dataclass(frozen=True)
class Contender:
    """A command in competition. `environment` is its whole environment.

    `fresh` makes the state that every run starts from, untimed. `made` names what a run has made (a digest):
    runs of one comparison that made different things can't be compared. One that `answers` must print a JSON object last.
    """

    name: str
    argv: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    fresh: Callable[[], None] = lambda: None
    made: Callable[[], str] = lambda: ""
    answers: bool = False
    limit_seconds: float = 3600.0


@dataclass(frozen=True)
class Run:
    """What one run used.

    `cpu_seconds` is that of all its processes; `peak_rss_bytes` the largest single one, as the kernel kept it;
    `tree_rss_bytes` the highest sum over the tree that was seen, pages shared by processes counted in each.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    tree_rss_bytes: int
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    made: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a run counts for nothing."""

    reason: str


def measure(contender: Contender) -> Run | Failure:
    """Make the fresh state, run the command once to the end of its last process, and say what that took."""
    try:
        contender.fresh()
    except Unprepared as error:
        return Failure(f"not prepared: {error}")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        return _measured(contender, Path(name))


def _measured(contender: Contender, folder: Path) -> Run | Failure:
    report, output, complaints = folder / "report.json", folder / "stdout", folder / "stderr"
    with output.open("wb") as stdout, complaints.open("wb") as stderr:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(report), *contender.argv],
            cwd=contender.cwd, env=dict(contender.environment),
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        )  # fmt: skip
        try:
            tree_rss, late = _watch(launcher, report, contender.limit_seconds)
        finally:
            _end(launcher)
    if late:
        return Failure(f"ran longer than {contender.limit_seconds:g} s and was ended")
    printed, status = _read(output), launcher.returncode or _found(report)["status"]
    if status:
        return Failure(f"exit code {status}: {last_line(_read(complaints)) or last_line(printed) or 'no output'}")
    result = result_of(printed)
    if result is None and contender.answers:
        return Failure(f"printed no JSON object last, but: {last_line(printed) or 'nothing'}")
    return _run(_found(report), tree_rss, result or {}, contender.made())


def _run(found: Mapping[str, Any], tree_rss: int, result: Mapping[str, Any], made: str) -> Run:
    peak = int(found["peak_rss_bytes"])
    # A run shorter than the first look at it has at least its largest process.
    return Run(found["wall_seconds"], found["cpu_seconds"], peak, max(tree_rss, peak), result, made)


def _watch(launcher: subprocess.Popen[bytes], report: Path, limit_seconds: float) -> tuple[int, bool]:
    """Peak memory of the tree until it has ended, and whether it was ended for taking too long."""
    peak, deadline, left_behind = 0, time.monotonic() + limit_seconds, False
    while launcher.poll() is None:
        peak = max(peak, _tree_rss(launcher.pid))
        if not left_behind and report.exists():  # the command itself has ended
            left_behind, deadline = True, time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            _end(launcher)
            return peak, not left_behind
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(SAMPLE_SECONDS)
    return peak, False


def _tree_rss(pid: int) -> int:
    return sum(_rss(process) for process in _descendants(pid))


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # gone meanwhile, or another user's
        return 0


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """End whatever still runs below the launcher, which then ends by itself. Law: afterwards it has ended."""
    for method in (psutil.Process.terminate, psutil.Process.kill):
        if launcher.poll() is not None:
            return
        for process in _descendants(launcher.pid):
            with suppress(psutil.NoSuchProcess):
                method(process)
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(GRACE_SECONDS)
    if launcher.poll() is None:
        launcher.kill()
        launcher.wait()


def _found(report: Path) -> dict[str, Any]:
    return json.loads(report.read_bytes())


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def last_line(text: str) -> str:
    """The last line with anything in it, on one line whatever the command wrote over it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def result_of(text: str) -> Mapping[str, Any] | None:
    """The JSON object that was printed last, on one line or indented; None where there is none.

    Law: whatever came before, `result_of(before + "\\n" + json.dumps(value, indent=i)) == value`.
    """
    lines = text.rstrip().split("\n")
    starts = [len(lines) - 1, *(number for number in reversed(range(len(lines))) if lines[number] == "{")][:2]
    for start in starts:
        try:
            value: object = json.loads("\n".join(lines[start:]))
        except ValueError:
            continue
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
    return None
