"""The machine that a figure comes from: what it is, and what it can do at best. No name of it, and no path."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring.child import Contender, Failure, measure

Ceilings = Mapping[str, float] | Failure
CEILINGS = Path(__file__).with_name("ceilings.py")


def describe() -> dict[str, Any]:
    """`load` is the mean number of running processes over the last minute: what else the machine had to do."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gigabytes": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def processor() -> str:
    """The processor's own name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def ceilings(seconds: float) -> Ceilings:
    """Matrix products, copying and hashing, each for so many seconds."""
    # -P: the files beside the script must not stand in for modules of the libraries.
    command = (sys.executable, "-P", str(CEILINGS), str(seconds))
    outcome = measure(Contender("ceilings", command, Path.cwd(), answers=True))
    return outcome if isinstance(outcome, Failure) else outcome.result


def highest(before: Ceilings, after: Ceilings) -> Ceilings:
    """The better of two measurements of each ceiling: somebody else's work can only lower one."""
    if isinstance(before, Failure) or isinstance(after, Failure):
        return before if isinstance(before, Failure) else after
    return {name: max(value, after[name]) for name, value in before.items()}
