"""Trainings take turns on an accelerator, and one that is killed gives its turn back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core.errors import ResourceError
from tasks.storage import devices

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from tasks.core import events
from tasks.storage import devices

class Said:
    def emit(self, kind, fields):
        print(fields["text"], flush=True)

events.send_to(Said())
with devices.turn(sys.argv[2:], [Path(sys.argv[1])]):
    print("mine", flush=True)
    sys.stdin.readline()
"""

Holder = subprocess.Popen[str]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    begun: list[Holder] = []

    def begin(*names: str) -> Holder:
        begun.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(tmp_path), *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, cwd=ROOT,
            )
        )  # fmt: skip
        return begun[-1]

    yield begin
    for each in begun:
        each.kill()
        each.communicate()


def said(holder: Holder) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["killed", "done"])
def test_the_second_waits_for_the_first_s_end(holder: Callable[..., Holder], end: signal.Signals | None) -> None:
    first = holder("gpu-a")
    assert said(first) == "mine"
    second = holder("gpu-a", "gpu-b")
    assert said(second) == "another training uses gpu-a: waiting for its end"
    if end:
        first.send_signal(end)
    else:
        first.communicate("\n")
    assert (said(second), said(second)) == ("gpu-a is free", "mine")


def test_others_do_not_wait(holder: Callable[..., Holder]) -> None:
    assert said(holder("gpu-a")) == "mine"
    assert said(holder("gpu-b")) == "mine"


def test_two_that_want_both_never_wait_for_each_other(holder: Callable[..., Holder]) -> None:
    first, second = holder("a", "b"), holder("b", "a")
    words = {said(first), said(second)}
    assert "mine" in words
    for each in (first, second):
        each.send_signal(signal.SIGTERM)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_lock_that_somebody_else_made_is_one(tmp_path: Path, holder: Callable[..., Holder]) -> None:
    lock = tmp_path / "tuneline-gpu.lock"
    lock.touch(mode=0o444)
    os.chown(lock, 12345, 12345)
    assert said(holder("gpu")) == "mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tuneline-gpu.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), devices.turn(["gpu"], [tmp_path]):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("visible", "wanted"),
    [
        (None, ("GPU-a1", "GPU-b2")), ("1", ("GPU-b2",)), ("1,0", ("GPU-b2", "GPU-a1")), ("GPU-a", ("GPU-a1",)), ("", ()),
        ("-1", ()), ("7", ()),
    ],
)  # fmt: skip
def test_those_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: tuple[str, ...]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho GPU-a1\necho GPU-b2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert devices.wanted(environ, 2) == wanted
    assert devices.wanted(environ, 1) == wanted[:1]
    assert devices.wanted({"TUNELINE_DEVICES": "npu-0, npu-1"}, 1) == ("npu-0", "npu-1")


def test_without_any_there_is_nothing_to_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.wanted({}, 1) == ()


def test_without_a_place_for_locks_only_who_needs_one_is_told(tmp_path: Path) -> None:
    with devices.turn([], [tmp_path / "gone"]):
        pass
    with (
        pytest.raises(ResourceError, match="take turns by lock files in .*gone"),
        devices.turn(["gpu"], [tmp_path / "gone"]),
    ):
        pass
