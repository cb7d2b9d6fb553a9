"""One stage as a process group: why it ended, how long it may take, and that nothing of it is left."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from flows.supervise import Event, Run, supervise
from tasks.core.errors import DataError, Killed, StageFailed
from tests.serving import processes, until

DOOR = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

def tell(**event):
    with (Path(os.environ["TUNELINE_RUN_DIR"]) / "events.jsonl").open("a") as file:
        print(json.dumps(event), file=file, flush=True)

if "child" in sys.argv:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
tell(kind="note", text="begun")
for word in sys.argv:
    if word == "sleep":
        time.sleep(1000)
    if word.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, word))
    if word == "fail":
        tell(kind="error", type="DataError", message="no rows")
        sys.exit(3)
    if word == "crash":
        sys.exit("words on the way out")
"""


@pytest.fixture
def door(tmp_path: Path) -> Path:
    (tmp_path / "door.py").write_text(DOOR)
    return tmp_path


def run(folder: Path, *words: str, hours: float = 1.0, stop: threading.Event | None = None) -> list[Event]:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if stop:
            stop.set()

    try:
        supervise(Run("stage", folder, folder / "logs", hours, ("door", *words)), listen, stop or threading.Event())
    finally:
        until(lambda: not list(processes(folder)), seconds=10)
    return heard


def test_its_events_are_heard(door: Path) -> None:
    assert [event["kind"] for event in run(door)] == ["note"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_is_told_apart(door: Path, number: signal.Signals) -> None:
    with pytest.raises(Killed, match=rf"stage was killed \({number.name}\)"):
        run(door, "child", number.name)


def test_its_own_error_is_raised(door: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        run(door, "child", "fail")


def test_one_without_a_word_is_quoted(door: Path) -> None:
    with pytest.raises(StageFailed, match="exit code 1: words on the way out") as error:
        run(door, "crash")
    assert not isinstance(error.value, Killed)


def test_one_that_takes_too_long_is_ended_and_never_tried_again(door: Path) -> None:
    with pytest.raises(StageFailed, match=r"stage was ended after 0.0002 h, .*limits") as error:
        run(door, "child", "sleep", hours=0.0002)
    assert not isinstance(error.value, Killed)


def test_one_that_is_stopped_ends_with_all_that_it_started(door: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.supervise.GRACE_SECONDS", 1.0)
    with pytest.raises(StageFailed):
        run(door, "child", "stubborn", "sleep", stop=threading.Event())
