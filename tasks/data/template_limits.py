"""Limits for templates that come with a model: the sandbox stops neither endless loops nor memory.

A template is first rendered in a child with hard limits (`vet`). What only some rows set off is stopped in this
process by `Watch`, which wakes on used processor time and costs a rendering next to nothing.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from tasks.core.errors import ModelError

_CHILD_SECONDS = 2
_CHILD_BYTES = 1 << 30
_TICK = 0.25
_RENDER_TICKS = 12  # 3 s of one rendering
_GROWTH_KIB = 2 << 20
_STATM = Path("/proc/self/statm")


class TemplateOverrunError(Exception):
    """A rendering used more time or memory than a conversation can need."""


@functools.lru_cache(maxsize=64)
def vet(source: str, tokens: tuple[tuple[str, str], ...], where: str) -> None:
    """Compile and render the template in a child; once a process for each template.

    ModelError: it used more than 2 s of processor time or 1 GiB of memory, or is not Jinja.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "tasks.data.template_probe", str(_CHILD_SECONDS), str(_CHILD_BYTES)],
            input=json.dumps([source, dict(tokens)]), capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path) or os.curdir},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModelError(f"{where} did not render a short conversation within a minute: mend the template") from None
    if ran.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ModelError(
            f"{where} used {_CHILD_SECONDS} s of processor time on a short conversation: look for an endless loop in it"
        )
    if ran.returncode or ran.stdout.strip() != "fine":
        said = ran.stdout.strip() or (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        raise ModelError(f"{where} {said}")


class Watch:
    """While entered, a rendering that runs for 3 s of processor time, or during which the process grows by 2 GiB,
    raises TemplateOverrunError. `renders` must be counted up at each rendering.

    Only the main thread can be interrupted so (a signal's handler runs there); in another thread it does nothing, and
    `vet` is the only guard. SIGVTALRM is used because test runners and schedulers use SIGALRM.
    """

    def __init__(self) -> None:
        self.renders = 0
        self._seen = self._ticks = self._deep = self._held = 0

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._deep += 1
        if self._deep > 1:
            return
        self._ticks, self._held = 0, _held()
        self._before = signal.signal(signal.SIGVTALRM, self._tick)
        signal.setitimer(signal.ITIMER_VIRTUAL, _TICK, _TICK)

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._deep -= 1
        if self._deep:
            return
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, self._before)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self._ticks = self._ticks + 1 if self.renders == self._seen else 0
        if self.renders != self._seen:
            self._seen, self._held = self.renders, _held()
        elif self._ticks >= _RENDER_TICKS:
            raise TemplateOverrunError(f"one rendering took more than {_TICK * _RENDER_TICKS:.0f} s")
        elif _held() - self._held > _GROWTH_KIB:
            raise TemplateOverrunError(f"one rendering took more than {_GROWTH_KIB >> 20} GiB of memory")


WATCH = Watch()
"""The process has one timer."""


def _held() -> int:
    """The memory that this process holds, in KiB; where the system does not say, the most it has held."""
    try:
        return int(_STATM.read_bytes().split()[1]) * (resource.getpagesize() >> 10)
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
