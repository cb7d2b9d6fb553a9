"""Where the peers are installed, and how each becomes a contender."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import checkout
from benchmarks.measuring.child import Contender, Unprepared
from benchmarks.peers.task import Task

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """`variable` names the environment variable that holds the path of an interpreter with the peer installed."""

    name: str
    variable: str
    script: Path

    def contender(self, task: Task, limit_seconds: float = 3600.0) -> Contender:
        """What runs the task. Its OUT is removed before every run: no run finds the cache of another.

        Law: a peer that is not installed is a contender, too. Its run fails with the reason.
        """
        python = os.environ.get(self.variable, "")
        given = (task.file, task.base, task.max_length, task.processes, task.out)
        argv = (python, str(self.script), *map(str, given))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith((*checkout.SETTINGS, "HF_"))
        }

        def fresh() -> None:
            self._check(python)
            shutil.rmtree(task.out, ignore_errors=True)

        return Contender(
            self.name, argv, task.out.parent, {**environment, **checkout.QUIET}, fresh, answers=True,
            limit_seconds=limit_seconds,
        )  # fmt: skip

    def _check(self, python: str) -> None:
        if not python:
            raise Unprepared(f"{self.variable} is not set: let it name a Python with {self.name} (docs/benchmarks.md)")
        if not os.access(python, os.X_OK):
            raise Unprepared(f"{self.variable} is {python}, which can't be run: expected the path of a Python")


TRL = Peer("TRL 1.16.0", "BENCHMARK_TRL", HERE / "trl_prepare.py")
LLAMA_FACTORY = Peer("LLaMA-Factory 0.9.5", "BENCHMARK_LLAMAFACTORY", HERE / "llamafactory_prepare.py")
PEERS = (TRL, LLAMA_FACTORY)
