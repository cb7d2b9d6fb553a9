"""A step in several processes: torchrun within the step's own command, which speaks for all of them.

The processes are torchrun's (torch.distributed.elastic, one machine, rendezvous on loopback). Each writes its events to
a folder of its own; those of the first are passed on, and the first typed error of any is raised here as if this
process had met it. None outlives this process, however it ends, and none of them the others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core import errors, events, layout
from tasks.core.errors import ModelError, ParamsError, ResourceError
from tasks.core.sections import TrainParams

JOB = "job.json"
POLL_SECONDS = 0.2
PASSED_ON = ("progress", "note", "warning")


def is_wanted(params: TrainParams) -> bool:
    """Whether this process is to start several. ParamsError: they could not share the work."""
    launch = params.launch
    if launch.sharded and launch.processes == 1:
        raise ParamsError("train.launch.sharded shares the base among processes: raise train.launch.processes above 1")
    if launch.processes > params.batch.packs:
        raise ParamsError(
            f"train.launch.processes={launch.processes} share the packs of a step, and train.batch.packs="
            f"{params.batch.packs} are too few: raise train.batch.packs to {launch.processes} or more"
        )
    return launch.processes > 1


def check(params: TrainParams) -> None:
    """ParamsError: this machine or the method can't do it. Warns of more processes than cores."""
    import torch

    from tasks.ml import methods

    method, options = methods.find(params)
    if params.launch.sharded and (held := method.base(options)) != "plain":
        raise ParamsError(
            f"train.launch.sharded shares out plain weights only, and train.method={params.method} holds the base as "
            f"{held}: set train.launch.sharded to false, or choose a method on a plain base"
        )
    processes, cards, cores = params.launch.processes, torch.cuda.device_count(), len(os.sched_getaffinity(0))
    if 0 < cards < processes:
        raise ParamsError(
            f"train.launch.processes={processes}, but there are {cards} GPUs: one process each at the most"
        )
    if not cards and processes > cores:
        events.warning(f"train.launch.processes={processes} share {cores} processor cores: fewer would be faster")


def run(function: str, params: TrainParams, **paths: Path) -> None:
    """Call `function` (`module:name`) with these params and paths in each of `train.launch.processes` processes.

    Raises the first typed error of any of them. SIGTERM: it is passed on, then SystemExit(143).
    """
    check(params)
    with tempfile.TemporaryDirectory(prefix="tuneline-") as name:
        folder = Path(name)
        job = {
            "name": function.rpartition(":")[2], "function": function, "params": params.model_dump(mode="json"),
            "paths": {flag: str(path.absolute()) for flag, path in paths.items()},
        }  # fmt: skip
        (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
        with _settings(params.launch.processes), _relay(run_folder(folder, 0) / events.FILE):
            failures = processes([sys.executable, "-m", "tasks.ml.worker", name], params.launch.processes, folder)
        if failures:
            raise _failure(folder, params.launch.processes, failures)


def run_folder(folder: Path, rank: int) -> Path:
    """Where a process leaves its events."""
    return folder / f"process-{rank}"


def processes(command: Sequence[str], count: int, folder: Path) -> dict[int, int]:
    """Run the command so often at once by torchrun, output into the folder; the exit codes of those that failed.

    When one fails, the others are ended. SIGTERM: it is passed on, and answered by SystemExit(143) when all have ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=folder.name, max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "output"), redirects=Std.ALL),
    )  # fmt: skip
    with _quiet_torchrun():
        try:
            elastic_launch(config, command[0])(*command[1:])
        except ChildFailedError as error:
            return {rank: failure.exitcode for rank, failure in error.failures.items()}
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None
    return {}


@contextmanager
def _quiet_torchrun() -> Generator[None]:
    """Its log says at length what is said here in a line; its signal handlers end with it."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _settings(count: int) -> Generator[None]:
    """What the processes find in their environment: one work folder, their share of the cores, the loopback device."""
    cores = max(1, len(os.sched_getaffinity(0)) // count)
    wanted = {"TUNELINE_WORK": str(layout.work()), "TUNELINE_THREADS": str(cores), "OMP_NUM_THREADS": str(cores)}
    if sys.platform == "linux":
        wanted["GLOO_SOCKET_IFNAME"] = "lo"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _relay(file: Path) -> Generator[None]:
    """Pass on what the first process tells, while the block runs and what is left of it after."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(file, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(file: Path, ended: threading.Event) -> None:
    told, last = _Told(file), False
    while not last:
        last = ended.wait(POLL_SECONDS)
        for event in told.more():
            if event["kind"] in PASSED_ON:
                events.relay(event)


class _Told:
    """What a process has told, each event once."""

    def __init__(self, file: Path) -> None:
        self._file, self._place = file, 0

    def more(self) -> Iterator[dict[str, Any]]:
        """The whole lines since the last call."""
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._place)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                yield json.loads(line)


def _failure(folder: Path, count: int, codes: dict[int, int]) -> errors.TunelineError | SystemExit:
    """The first error that a process told of; else what its end says. When one fails, torchrun sends SIGTERM to the others."""
    files = [run_folder(folder, rank) / events.FILE for rank in range(count)]
    told = [event for file in files for event in _Told(file).more() if event["kind"] == "error"]
    if told:
        return errors.from_event(min(told, key=lambda event: event["at"]))
    if -signal.SIGKILL in codes.values():
        return ResourceError(
            "a process of train was killed (SIGKILL): out of memory, or by hand; the same command resumes from its checkpoint"
        )
    by_itself = {rank: code for rank, code in codes.items() if code not in (128 + signal.SIGTERM, -signal.SIGTERM)}
    if not by_itself:
        return SystemExit(128 + signal.SIGTERM)
    rank, code = min(by_itself.items())
    return ModelError(f"process {rank} of train ended with exit code {code}: {_last_words(folder, rank)}")


def _last_words(folder: Path, rank: int) -> str:
    for file in (folder / "output").rglob(f"{rank}/stderr.log"):
        if lines := file.read_text(encoding="utf-8", errors="replace").strip().splitlines():
            return lines[-1]
    return "no output"
