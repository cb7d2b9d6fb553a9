"""What is counted for Prometheus, and the places of the line that count it.

Runs are processes of their own, so prometheus_client's multiprocess mode is used: each writes files of its own into the
folder of `PROMETHEUS_MULTIPROC_DIR`, which `tuneline up` names and serves (flows/exposition.py). Without that folder
nothing is counted, and the library is not imported.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import params
from tasks.core.errors import TunelineError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

    from flows.supervise import Event
    from flows.workspace import Workspace
    from tasks.ingest import Ingested
    from tasks.storage.versions import Stage

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "tuneline_"
ROWS = ("accepted", "duplicate", "quarantined")
SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)


@dataclass(frozen=True)
class Metric:
    """One metric as the page names it; a counter's `_total` is part of its name."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str


RUNS = Metric("tuneline_runs_total", "counter", ("flow", "model", "outcome"), "Runs that have ended")
STAGES = Metric("tuneline_stages_total", "counter", ("stage", "outcome"), "Stages, by what became of them")
STAGE_SECONDS = Metric("tuneline_stage_seconds", "histogram", ("stage",), "Time of the stages that ran to their end")
LOSS = Metric("tuneline_train_loss", "gauge", ("model",), "Loss of the newest training's last step")
SPEED = Metric("tuneline_train_tokens_per_second", "gauge", ("model",), "Speed of the newest training")
MEMORY = Metric("tuneline_train_memory_bytes", "gauge", ("model",), "Peak memory of the newest training so far")
INGESTED = Metric("tuneline_rows_ingested_total", "counter", ("kind",), "Rows of landing files, by what became of them")
PROMOTED = Metric("tuneline_last_promotion_timestamp_seconds", "gauge", ("model",), "When a version was last promoted")
METRICS = (RUNS, STAGES, STAGE_SECONDS, LOSS, SPEED, MEMORY, INGESTED, PROMOTED)


def counted() -> bool:
    """Whether anybody looks."""
    return bool(folder := os.environ.get(FOLDER)) and Path(folder).is_dir()


def ends(flow: Flow[..., Any]) -> None:
    """Count every end of the flow's runs, by the name that the UI has for it."""
    if not counted():  # else each run's log would tell of a hook that does nothing
        return

    for hooks in (flow.on_completion, flow.on_failure, flow.on_crashed, flow.on_cancellation):
        hooks(count_for_metrics)


def count_for_metrics(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Its name stands in the run's log. Of a run that was killed the worker calls it."""
    outcome = (state.name or state.type.value).lower()
    _add(RUNS, 1, flow=flow.name, model=_model(flow_run.parameters), outcome=outcome)


def stage(run_stage: Callable[[Workspace, Stage, dict[str, float]], State[Any]]) -> Callable[..., State[Any]]:
    """The same, counted: cached, ran, failed, or retried where Prefect will try it again."""

    @functools.wraps(run_stage)
    def counting(run: Workspace, stage: Stage, seconds: dict[str, float]) -> State[Any]:
        outcome: str | None = "failed"
        try:
            state = run_stage(run, stage, seconds)
            outcome = _outcome(state)
            if outcome == "ran":
                _observe(STAGE_SECONDS, seconds[stage.name], stage=stage.name)
            return state
        except TunelineError:
            outcome = "retried" if _is_tried_again() else "failed"
            raise
        finally:
            if outcome:
                _add(STAGES, 1, stage=stage.name, outcome=outcome)

    return counting


def progress(run: Workspace, event: Event) -> None:
    """Take in a training's progress."""
    if "loss" not in event or not counted():
        return
    model = _name_in(run.root)
    _set(LOSS, event["loss"], model=model)
    _set(SPEED, event["tokens_per_second"], model=model)
    _set(MEMORY, event["memory_gb"] * 1e9, model=model)


def took_in(done: Ingested) -> None:
    """Count the rows of an ingest that made a version."""
    if done.created and done.version:
        for kind in ROWS:
            _add(INGESTED, done.version.total(kind), kind=kind)


def promoted(model: str) -> None:
    _set(PROMOTED, time.time(), model=model)


def _outcome(state: State[Any]) -> str | None:
    """None: it was not its turn, as an earlier stage failed."""
    if state.is_cancelled():
        return None
    if state.is_failed():
        return "failed"
    return "cached" if state.name == "Cached" else "ran"


def _is_tried_again() -> bool:
    """Whether the task run that is under way has tries left."""
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return context is not None and context.task_run.run_count <= context.task.retries


def _model(parameters: dict[str, Any]) -> str:
    """Which model a run is about: its own params', the one that it names, or the one of params.yaml."""
    if "reference" in parameters:
        return str(parameters["reference"]).partition("@")[0]
    given = parameters.get("params")
    return str(given["publish"]["name"]) if isinstance(given, dict) and "publish" in given else _name_in(Path.cwd())


@functools.lru_cache(maxsize=8)
def _name_in(root: Path) -> str:
    try:
        return params.load(root / params.FILE).publish.name
    except TunelineError:  # the run has said so itself
        return "unnamed"


def _add(metric: Metric, amount: float, **labels: str) -> None:
    if counted():
        _made()[metric.name].labels(**labels).inc(amount)


def _set(metric: Metric, value: float, **labels: str) -> None:
    if counted():
        _made()[metric.name].labels(**labels).set(value)


def _observe(metric: Metric, value: float, **labels: str) -> None:
    if counted():
        _made()[metric.name].labels(**labels).observe(value)


@functools.cache
def _made() -> dict[str, Any]:
    """In a registry of their own: Prefect counts events and logs in the library's default one."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    into = CollectorRegistry()
    made: dict[str, Any] = {}
    for metric in METRICS:
        if metric.kind == "counter":
            made[metric.name] = Counter(metric.name, metric.about, metric.labels, registry=into)
        elif metric.kind == "histogram":
            made[metric.name] = Histogram(metric.name, metric.about, metric.labels, registry=into, buckets=SECONDS)
        else:  # the value of the process that wrote last, whether it still lives or not
            made[metric.name] = Gauge(
                metric.name, metric.about, metric.labels, registry=into, multiprocess_mode="mostrecent"
            )
    return made
