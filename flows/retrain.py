"""One run of the line: snapshot, every stage that has changed, a version in the registry, its verdict, a report in the UI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed
from pydantic import ValidationError

from flows import approval, arrivals, continuing, metrics, parent, policy, preflight, report, stages
from flows.stages import Futures
from flows.supervise import Event
from flows.workspace import Workspace, bring_back, workspace
from tasks import publish
from tasks.core import layout, params
from tasks.core.errors import ConflictError, ModelError, TunelineError
from tasks.core.params import Params
from tasks.core.verdict import Ruling
from tasks.promote import settled
from tasks.storage.checkout import current
from tasks.storage.corpus import Corpus
from tasks.storage.registry import Published, Registry

ENDS = {"promoted": "Promoted", "refused": "Refused", "declined": "Refused", "awaits": "Unapproved"}
"""What a run that went well is called in the UI, by what became of its version."""


@flow(
    name="retrain",
    flow_run_name=lambda: f"retrain-{_model_of(flow_run.parameters['params'])}",
    task_runner=policy.task_runner(),
    persist_result=False,
)
def retrain(
    params: Params | None = None, data: str | None = None, when: Literal["now", "new", "due"] = "now"
) -> State[Any]:
    """Turn a corpus into a registered, judged version.

    params: those of params.yaml unless given. data: a version of the corpus, `v3` or `latest`, in place of the one that
    lies here. when: new: only if rows have arrived that no run has taken; due: only if the rules of `trigger` say so too.
    """
    parent.watch(os.environ, flow_run.id)
    checkout = Path.cwd()
    try:
        written = _params_of(checkout)
        chosen = params or written
        if deployment.id:
            preflight.check_form(chosen, written)
        preflight.check(chosen)
        if flow_run.run_count > policy.COMEBACKS:
            return Failed(message=f"it was begun {policy.COMEBACKS} times: its log says what ends its process")
        if answer := _answer(chosen):
            return answer
        corpus = Corpus.open(os.environ)  # asks the store, so that a wrong one is known before anything runs
        version = corpus.read(data) if data else None
        if when != "now":
            decision, version = arrivals.claim(corpus, chosen, when, _run_name())
            if version is None:
                return Completed(name=arrivals.SKIPPED, message=decision.reason, data={"reason": decision.reason})
            get_run_logger().info(decision.reason)
        chosen = continuing.pin(chosen, checkout, version and version.name)
        with workspace(checkout, _run_name(), chosen, version) as run:
            _introduce(run, chosen)
            return _line(run, chosen)
    except TunelineError as error:
        return Failed(message=str(error))


def _introduce(run: Workspace, chosen: Params) -> None:
    """Model, data version and method in the run's name and tags."""
    data = current(run.root) or "its own data"
    told = {"model": chosen.publish.name, "data": data, "method": chosen.train.method}
    tags = sorted({*flow_run.tags, *(f"{key}: {value}" for key, value in told.items())})
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(_run_name()), name=" ".join(told.values()), tags=tags)


def _line(run: Workspace, chosen: Params) -> State[Any]:
    seconds: dict[str, float] = {}
    registry = Registry.open(os.environ)
    futures = stages.submit(run, seconds)
    published = _publish(run, chosen, seconds, futures, registry)
    promoted = policy.as_task(_promote, "promote").submit(run, published, chosen.promote.alias, registry)
    if failed := stages.finish(run, [*futures.values(), published, promoted]):
        return failed
    result: Published = published.result()
    promotion: Event = promoted.result()
    if promotion["what"] == "promoted":
        metrics.promoted(chosen.publish.name)
    _keep_report(run)
    if not bring_back(run):
        get_run_logger().info("the checkout keeps its files: they changed meanwhile, or the run had params of its own")
    uri = registry.uri(result.version)
    rulings = _rulings(registry, result, promotion)
    report.show_results(run.root, result, uri, rulings)
    registered = f"{result.version.reference} {'registered' if result.created else 'was registered already'}: {uri}"
    if promotion["what"] == "awaits" and deployment.id:
        judgement = registry.judgements.read(result.version.name, result.version.number, promotion["verdict"])
        approval.ask(registry, judgement, _run_name())
        return approval.answered(registry, judgement, chosen.limits.approval_hours)
    return Completed(
        name=ENDS.get(promotion["what"], "Completed"),
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


def _answer(chosen: Params) -> State[Any] | None:
    """Of a run that was suspended for it. None: it was not, or has to compare again, since the alias moved meanwhile."""
    if flow_run.run_count == 1:
        return None
    registry = Registry.open(os.environ)
    judgement = approval.open_question(registry, chosen.publish.name, _run_name())
    try:
        return judgement and approval.answered(registry, judgement, chosen.limits.approval_hours)
    except (ModelError, ConflictError) as error:
        get_run_logger().warning("%s: compared again", error)
        return None


def _publish(
    run: Workspace, chosen: Params, seconds: dict[str, float], futures: Futures, into: Registry
) -> PrefectFuture[Any]:
    def publish_version() -> Published | State[Any]:
        try:
            return publish.publish_from(chosen.publish, run.root, run.snapshot, seconds, into)
        except policy.TRIED_AGAIN:
            raise
        except TunelineError as error:
            return Failed(message=f"publish: {error}")

    return policy.as_task(publish_version, "publish").submit(wait_for=list(futures.values()))


def _promote(run: Workspace, published: Published, alias: str, into: Registry) -> Event | State[Any]:
    """Judge what was published, where that is to be done; a champion that has to be evaluated again needs a model's memory,
    hence a child, which takes 2 s to begin."""
    version = published.version
    words = ("tasks.promote", "--version", version.reference, "--workspace", ".")
    try:
        if outcome := settled(version, alias, into.aliases.read(version.name, alias), into):
            get_run_logger().info(outcome.words)
            return outcome.told
        return stages.supervised(run, "promote", *words)
    except policy.TRIED_AGAIN:
        raise
    except TunelineError as error:
        return Failed(message=f"promote: {version.reference} is registered, but was not judged: {error}")


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


metrics.ends(retrain)
