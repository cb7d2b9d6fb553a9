"""One stage, or one door, as a process group of its own: its events come in, and nothing of it outlives its parent.

The child (`python -m flows.supervise STAGE PARENT`) leads a new session, runs the stage through DVC, or the door's own
module, and watches its parent. The parent tails the stage's events and, whatever ends it, ends the group:
SIGTERM, time for a checkpoint, SIGKILL. Neither side imports Prefect.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core import errors, events

GRACE_SECONDS = 10.0
"""How long a stage may take to write its checkpoint after SIGTERM."""
POLL_SECONDS = 0.25

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """Where one stage's run leaves its events and its output, and the hours that it may take. `door`: for what is no DVC
    stage, the words after `python -m`."""

    stage: str
    workspace: Path
    folder: Path
    hours: float
    door: tuple[str, ...] = ()


def supervise(run: Run, listen: Callable[[Event], None], stop: threading.Event) -> None:
    """Run the stage to its end, or until `stop` is set, handing every event to `listen`.

    Raises the step's own error, Killed, or StageFailed.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / events.FILE).unlink(missing_ok=True)
    failure: errors.TunelineError | None = None
    deadline = time.monotonic() + run.hours * 3600
    with (run.folder / "output.log").open("wb") as output, _group(run, output) as child:
        for event in _events(run.folder / events.FILE, child, stop, deadline):
            if event["kind"] == "error":
                failure = errors.from_event(event)
            listen(event)
        late = child.poll() is None and not stop.is_set()
    if late:
        raise errors.StageFailed(
            f"{run.stage} was ended after {run.hours:g} h, the most that limits of params.yaml give it: raise them, then run "
            "the same command again; a training goes on from its checkpoint"
        )
    if child.returncode:
        raise failure or _without_a_word(run, child.returncode)


@contextmanager
def _group(run: Run, output: Any) -> Generator[subprocess.Popen[bytes]]:
    """The child's process group, ended with the block."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "TUNELINE_RUN_DIR": str(run.folder.absolute()),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.supervise", run.stage, str(os.getpid()), *run.door],
        cwd=run.workspace, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        end_group(child)


def end_group(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group, time for a checkpoint, SIGKILL. Nothing is sent once the group is gone."""
    if child.poll() is None:
        _signal(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    _signal(child.pid, signal.SIGKILL)
    child.wait()


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _events(
    file: Path, child: subprocess.Popen[bytes], stop: threading.Event, deadline: float
) -> Iterator[dict[str, Any]]:
    """Whole lines as they are written, until the child has ended and all is read, `stop` is set, or it is too late."""
    place = 0
    while True:
        ended = child.poll() is not None
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(place)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    place += len(line)
                    yield json.loads(line)
        if ended or stop.wait(POLL_SECONDS) or time.monotonic() > deadline:
            return


def _without_a_word(run: Run, code: int) -> errors.StageFailed:
    """A stage that did not say itself why it ended."""
    for number, why in ((signal.SIGKILL, "out of memory, or by hand"), (signal.SIGTERM, "somebody wants the machine")):
        if code in (-number, 128 + number):
            return errors.Killed(
                f"{run.stage} was killed ({number.name}): {why}; the same command resumes from its checkpoint"
            )
    lines = (run.folder / "output.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return errors.StageFailed(
        f"{run.stage} ended with exit code {code}: {lines[-1] if lines else 'no output'} (all of it: {run.folder}/output.log)"
    )


def main() -> int:
    """The child's side: run one stage through DVC or a door by itself, and die with the parent."""
    stage, parent, *door = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # the step has its own handler; this must outlive it to say how it ended
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if door:
        return _shown(subprocess.run([sys.executable, "-m", *door], check=False).returncode)
    from tasks.storage.versions import Pipeline

    try:
        Pipeline(Path.cwd()).reproduce(stage)
    except errors.TunelineError as error:
        print(error, file=sys.stderr)
        return _exit_code(str(error))
    return 0


def _exit_code(message: str) -> int:
    """The step's own code where DVC tells it (`failed to run: ..., exited with 137`), else 1."""
    _, marker, code = message.rpartition("exited with ")
    number = code.strip(" .'\"")
    return _shown(int(number)) if marker and number.lstrip("-").isdigit() else 1


def _shown(code: int) -> int:
    """As a shell shows it: 128 and the signal that ended it."""
    return 128 - code if code < 0 else code


def _watch(parent: int) -> None:
    """End the group when the parent is gone: an orphaned stage would hold the GPU and write for nobody."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
