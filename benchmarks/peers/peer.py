"""Where the peers are installed, and how each becomes a contender."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import checkout
from benchmarks.measuring.child import Contender, Unprepared
from benchmarks.peers.task import Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """`variable` may name an interpreter with the peer installed, in place of the one that `make peers` makes.

    `short` is the peer's folder below `.peers/` and the beginning of its scripts' names.
    """

    name: str
    variable: str
    short: str

    @property
    def python(self) -> str:
        return os.environ.get(self.variable) or str(checkout.ROOT / ".peers" / self.short / "bin" / "python")

    def absent(self) -> str:
        """Why the peer can't run here; empty where it can."""
        if os.access(self.python, os.X_OK):
            return ""
        if os.environ.get(self.variable):
            return f"{self.variable} is {self.python}, which can't be run: expected the path of a Python"
        return f"{self.name} is not installed: make peers, or let {self.variable} name a Python that has it"

    def prepares(self, task: Task) -> Contender:
        """What runs the preparation. Its OUT is removed before every run: no run finds the cache of another.

        Law: a peer that is not installed is a contender, too. Its run fails with the reason.
        """
        given = (task.file, task.base, task.max_length, task.processes, task.out)
        return self._contender(self.name, [f"{self.short}_prepare.py", *map(str, given)], task.out)

    def trains(self, lesson: Path, out: Path, setting: Mapping[str, Any], note: str = "") -> Contender:
        """What trains on the lesson in this file; the same holds for OUT and for a peer that is not installed."""
        name = f"{self.name}, {note}" if note else self.name
        return self._contender(name, [f"{self.short}_train.py", str(lesson), str(out), json.dumps(setting)], out)

    def _contender(self, name: str, script: list[str], out: Path) -> Contender:
        argv = (self.python, str(HERE / script[0]), *script[1:])
        kept = {key: value for key, value in os.environ.items() if not key.startswith((*checkout.SETTINGS, "HF_"))}

        def fresh() -> None:
            if reason := self.absent():
                raise Unprepared(reason)
            shutil.rmtree(out, ignore_errors=True)

        return Contender(name, argv, out.parent, {**kept, **checkout.QUIET}, fresh, answers=True)


TRL = Peer("TRL 1.16.0", "BENCHMARK_TRL", "trl")
LLAMA_FACTORY = Peer("LLaMA-Factory 0.9.5", "BENCHMARK_LLAMAFACTORY", "llamafactory")
UNSLOTH = Peer("unsloth 2026.10.9", "BENCHMARK_UNSLOTH", "unsloth")
PREPARE = (TRL, LLAMA_FACTORY)
"""Those whose preparation of the data is measured."""
PEERS = (TRL, UNSLOTH, LLAMA_FACTORY)
