"""Whose turn it is on an accelerator: one lock file each, for the whole machine, which the kernel takes back from whoever is
killed. A training that is not its turn yet waits.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.core import events
from tasks.core.errors import ResourceError

VARIABLE = "TUNELINE_DEVICES"
"""Names, with commas, in place of the NVIDIA GPUs that are found: anything that trainings here must take turns on."""

PLACES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108  the same for everybody on the machine, hence not TMPDIR


def wanted(environ: Mapping[str, str], processes: int) -> tuple[str, ...]:
    """The accelerators that a training of so many processes uses, by names that mean the same to the whole machine."""
    if VARIABLE in environ:
        return tuple(name.strip() for name in environ[VARIABLE].split(",") if name.strip())
    gpus = _gpus()
    if (visible := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = tuple(gpu for word in visible.split(",") if (gpu := _chosen(word.strip(), gpus)))
    return gpus[:processes]


@contextmanager
def turn(names: Iterable[str], places: Sequence[Path] = PLACES) -> Generator[None]:
    """Have these to oneself for the length of the block. In one order for all, so that no two wait for each other.

    ResourceError: no place takes a lock file.
    """
    with ExitStack() as stack:
        for name in sorted(set(names)):
            _lock(stack, _writable(places) / f"tuneline-{name.replace('/', '-')}.lock", name)
        yield


def _writable(places: Sequence[Path]) -> Path:
    for place in places:
        if os.access(place, os.W_OK):
            return place
    raise ResourceError(
        f"trainings take turns by lock files in {' or '.join(map(str, places))}, which this user can't write: make one "
        f"writable, or set {VARIABLE} to nothing where nobody else trains"
    )


def _lock(stack: ExitStack, path: Path, name: str) -> None:
    descriptor = _opened(path)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        events.note(f"another training uses {name}: waiting for its end")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        events.note(f"{name} is free")
    # Closing alone would leave it with a child that was forked meanwhile.
    stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)


def _opened(path: Path) -> int:
    """Anybody's file will do: a lock needs no right to write. Where it is there, Linux lets nobody else create it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o644)


def _chosen(word: str, gpus: tuple[str, ...]) -> str | None:
    """What an entry of CUDA_VISIBLE_DEVICES names: a number, a UUID or the beginning of one."""
    if word.isdigit():
        return gpus[int(word)] if int(word) < len(gpus) else None
    return next((gpu for gpu in gpus if word and gpu.startswith(word)), None)


def _gpus() -> tuple[str, ...]:
    """UUIDs. Asked of the driver: torch would open a context on the first GPU to tell."""
    if not (program := shutil.which("nvidia-smi")):
        return ()
    asked = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()
