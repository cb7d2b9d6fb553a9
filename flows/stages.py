"""The stages of a workspace as Prefect tasks with the graph's own edges, each run by a supervised child.

They are built from dvc.yaml's own graph: a stage added there is a task here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from httpx import HTTPError
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from flows import metrics, policy, report
from flows.supervise import Event, Run, supervise
from flows.workspace import Workspace
from tasks.core import events, layout
from tasks.core.errors import Killed, TransientError, TunelineError
from tasks.storage.versions import Change, Stage

Futures = dict[str, PrefectFuture[Any]]


def submit(run: Workspace, seconds: dict[str, float]) -> Futures:
    """Submit every stage after those it needs, with the graph's own edges."""
    futures: Futures = {}
    for stage in run.pipeline.stages:
        runner = policy.as_task(metrics.stage(_stage), stage.name)
        futures[stage.name] = runner.submit(run, stage, seconds, wait_for=[futures[need] for need in stage.needs])
    return futures


def finish(run: Workspace, futures: Sequence[PrefectFuture[Any]]) -> State[Any] | None:
    """Wait for all; the first that failed, as the flow's own state."""
    try:
        wait(list(futures))
    except BaseException:  # Ctrl-C, a cancel: the stage under way ends, with a checkpoint, before its workspace goes
        run.stop.set()
        wait(list(futures))
        raise
    for future in futures:
        if future.state.is_failed() or future.state.is_crashed():
            return Failed(message=future.state.message)
    return None


def _stage(run: Workspace, stage: Stage, seconds: dict[str, float]) -> State[Any]:
    """One stage: nothing to do, linked from the cache, or run by a supervised child."""
    if run.stop.is_set():
        return Cancelled(name="NotRun", message="an earlier stage failed, or the run was stopped")
    try:
        change = run.change(stage.name)
        if change is Change.RESTORE:
            run.pipeline.reproduce(stage.name)
    except TunelineError as error:
        run.stop.set()
        return Failed(message=f"{stage.name}: {error}")
    if change is not Change.RUN:
        return Completed(
            name="Cached", message="nothing has changed" if change is Change.NONE else "restored from the cache"
        )
    started = time.monotonic()
    try:
        supervised(run, stage.name)
    except TunelineError as error:
        if isinstance(error, TransientError | Killed) and not run.stop.is_set():
            raise  # tried again (flows/policy.py)
        run.stop.set()
        return Failed(message=f"{stage.name}: {error}")
    seconds[stage.name] = round(time.monotonic() - started, 3)
    return Completed(message=f"ran in {seconds[stage.name]:.0f} s")


def supervised(run: Workspace, name: str, *door: str) -> Event:
    """Run a stage or a door in a child, its events to the log and the UI; the result that it told last."""
    logger = get_run_logger()
    progress, relay = report.Progress(name), _Relay(logger)
    result: Event = {}

    def listen(event: Event) -> None:
        nonlocal result
        relay(event)
        if event["kind"] == "result":
            result = event
        if event["kind"] == "progress":
            metrics.progress(run, event)
            try:
                progress.show(event)
            except HTTPError as error:  # the UI misses a picture; the training must not end for it
                logger.warning("the Prefect server did not take the progress: %s", error)

    folder = run.checkout / layout.HOME / "logs" / run.root.name / name
    supervise(Run(name, run.root, folder, run.limits.of(name), door), listen, run.stop)
    return result


class _Relay:
    """Hands a step's events to the logger: every note, and progress every few seconds."""

    EVERY_SECONDS = 4.0

    def __init__(self, logger: Any) -> None:
        self._logger, self._last = logger, 0.0

    def __call__(self, event: Event) -> None:
        if event["kind"] == "progress":
            if event["done"] >= event["total"] or time.monotonic() - self._last >= self.EVERY_SECONDS:
                self._last = time.monotonic()
                self._logger.info(events.describe(dict(event)))
        elif event["kind"] in ("note", "warning"):
            self._logger.log(30 if event["kind"] == "warning" else 20, event["text"])
