"""One run of the line: snapshot, every stage that has changed, a version in the registry, its verdict, a report in the UI.

The Prefect tasks are built from dvc.yaml's own graph: a stage added there is a task here.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from httpx import HTTPError
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from pydantic import ValidationError

from flows import continuing, policy, preflight, report
from flows.supervise import Event, Run, supervise
from flows.workspace import Workspace, bring_back, workspace
from tasks import publish
from tasks.core import events, layout, params
from tasks.core.errors import TransientError, TunelineError
from tasks.core.params import Params
from tasks.core.verdict import Ruling
from tasks.storage.registry import Published, Registry
from tasks.storage.versions import Change, Stage

Futures = Mapping[str, PrefectFuture[Any]]


@flow(
    name="retrain",
    flow_run_name=lambda: f"retrain-{_model_of(flow_run.parameters['params'])}",
    task_runner=policy.task_runner(),
    persist_result=False,
)
def retrain(params: Params | None = None) -> State[Any]:
    """Turn the corpus as it is now into a registered version. `params`: those of params.yaml unless given."""
    checkout = Path.cwd()
    try:
        chosen = params or _params_of(checkout)
        preflight.check(chosen)
        Registry.open(os.environ).store.ensure_bucket()
        chosen = continuing.pin(chosen, checkout)
        with workspace(checkout, _run_name(), chosen) as run:
            return _line(run, chosen)
    except TunelineError as error:
        return Failed(message=str(error))


def _line(run: Workspace, chosen: Params) -> State[Any]:
    seconds: dict[str, float] = {}
    futures = _stages(run, seconds)
    published = _publish(run, chosen, seconds, futures)
    promoted = policy.as_task(_promote, "promote").submit(run, published)
    doors = (published, promoted)
    try:
        wait([*futures.values(), *doors])
    except BaseException:  # Ctrl-C, a cancel: the stage under way ends, with a checkpoint, before its workspace goes
        run.stop.set()
        wait([*futures.values(), *doors])
        raise
    for future in (*futures.values(), *doors):
        if future.state.is_failed() or future.state.is_crashed():
            return Failed(message=future.state.message)
    result: Published = published.result()
    promotion: Event = promoted.result()
    _keep_report(run)
    if not bring_back(run):
        get_run_logger().info("the checkout keeps its files: they changed meanwhile, or the run had params of its own")
    registry = Registry.open(os.environ)
    uri = registry.uri(result.version)
    rulings = _rulings(registry, result, promotion)
    report.show_results(run.root, result, uri, rulings)
    registered = f"{result.version.reference} {'registered' if result.created else 'was registered already'}: {uri}"
    return Completed(
        name="Refused" if promotion["what"] == "refused" else "Completed",
        message=f"{registered}; {promotion['words']}",
        data={
            "version": result.version.reference, "uri": uri, "created": result.created, "ran": sorted(seconds),
            "seconds": seconds, "report": str(_report_folder(run)),
            "promotion": {
                "what": promotion["what"], "words": promotion["words"], "verdict": promotion["verdict"],
                "rulings": [ruling.model_dump() for ruling in rulings],
            },
        },
    )  # fmt: skip


def _stages(run: Workspace, seconds: dict[str, float]) -> dict[str, PrefectFuture[Any]]:
    """Submit every stage after those it needs, with the graph's own edges."""
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in run.pipeline.stages:
        runner = policy.as_task(_stage, stage.name)
        futures[stage.name] = runner.submit(run, stage, seconds, wait_for=[futures[need] for need in stage.needs])
    return futures


def _stage(run: Workspace, stage: Stage, seconds: dict[str, float]) -> State[Any]:
    """One stage: nothing to do, linked from the cache, or run by a supervised child."""
    if run.stop.is_set():
        return Cancelled(name="NotRun", message="an earlier stage failed, or the run was stopped")
    try:
        change = run.pipeline.change(stage.name)
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
        _supervised(run, stage.name)
    except TransientError:
        raise
    except TunelineError as error:
        run.stop.set()
        return Failed(message=f"{stage.name}: {error}")
    seconds[stage.name] = round(time.monotonic() - started, 3)
    return Completed(message=f"ran in {seconds[stage.name]:.0f} s")


def _supervised(run: Workspace, name: str, *door: str) -> Event:
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
            try:
                progress.show(event)
            except HTTPError as error:  # the UI misses a picture; the training must not end for it
                logger.warning("the Prefect server did not take the progress: %s", error)

    folder = run.checkout / layout.HOME / "logs" / run.root.name / name
    supervise(Run(name, run.root, folder, door), listen, run.stop)
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


def _publish(run: Workspace, chosen: Params, seconds: dict[str, float], futures: Futures) -> PrefectFuture[Any]:
    def publish_version() -> Published | State[Any]:
        into = Registry.open(os.environ)
        try:
            return publish.publish_from(chosen.publish, run.root, run.snapshot, seconds, into)
        except TransientError:
            raise
        except TunelineError as error:
            return Failed(message=f"publish: {error}")

    return policy.as_task(publish_version, "publish").submit(wait_for=list(futures.values()))


def _promote(run: Workspace, published: Published) -> Event | State[Any]:
    """Judge what was published; a champion that has to be evaluated again needs a model's memory, hence a child."""
    words = ("tasks.promote", "--version", published.version.reference, "--workspace", ".")
    try:
        return _supervised(run, "promote", *words)
    except TransientError:
        raise
    except TunelineError as error:
        return Failed(message=f"promote: {published.version.reference} is registered, but was not judged: {error}")


def _rulings(registry: Registry, published: Published, promotion: Event) -> tuple[Ruling, ...]:
    """The verdict's, as the registry keeps it; none for the champion itself."""
    if promotion["verdict"] is None:
        return ()
    version = published.version
    return registry.judgements.read(version.name, version.number, promotion["verdict"]).rulings


def _keep_report(run: Workspace) -> None:
    """The run's page outlives its workspace."""
    shutil.copytree(run.root / layout.RUN_REPORT, _report_folder(run), dirs_exist_ok=True)


def _report_folder(run: Workspace) -> Path:
    return run.checkout / layout.HOME / "reports" / run.root.name


def _run_name() -> str:
    context: Any = get_run_context()
    return str(context.flow_run.id)


def _model_of(given: object) -> str:
    """The model's name, for the run's; a run that is named before its params are checked still gets one."""
    try:
        return (Params.model_validate(given) if given else _params_of(Path.cwd())).publish.name
    except (ValidationError, TunelineError):
        return "unnamed"


def _params_of(checkout: Path) -> Params:
    return params.load(checkout / params.FILE)
