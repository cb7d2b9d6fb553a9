"""Start one command, outlive its whole process tree, and write down what the tree has used.

Run as `python -I -S launcher.py REPORT COMMAND...`. It is a process of its own for two reasons. A child's peak memory
begins at that of the process it was started from, so that process must be small. And a service that the command
starts in the background leaves the tree on purpose: as the subreaper of its descendants, this process inherits it,
waits for it, and so has its processor time counted.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
COMMAND_NOT_STARTED = 127
RESTORED = [signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ]
"""Ignored by this process or by Python; the command is to begin with the system's own behaviour."""


def main() -> int:
    report, *command = sys.argv[1:]
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, too, and this process says how that ends
    started = time.monotonic()
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigdef=RESTORED)
    except OSError as error:
        print(f"{command[0]} can't be started: {error.strerror}", file=sys.stderr)
        return COMMAND_NOT_STARTED
    found = {"status": wait_for(child), "wall_seconds": time.monotonic() - started}
    write(report, found)  # says that whoever still runs has been left behind
    wait_for(None)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    write(report, {**found, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss * unit})
    return 0


def adopt_orphans() -> None:
    """Linux only: elsewhere a process that leaves the tree is not counted."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the launcher could not become a subreaper")


def wait_for(wanted: int | None) -> int:
    """Reap whoever ends until it is `wanted`, or until nobody is left."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return 0
        if pid == wanted:
            return os.waitstatus_to_exitcode(status)


def write(report: str, found: dict[str, float]) -> None:
    """Whole or not at all: another process looks for the file meanwhile."""
    partial = f"{report}.partial"
    with open(partial, "w", encoding="utf-8") as file:  # noqa: PTH123  pathlib would double this process's memory
        json.dump(found, file)
    os.replace(partial, report)  # noqa: PTH105  the same


if __name__ == "__main__":
    sys.exit(main())
