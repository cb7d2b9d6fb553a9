"""A registered version made again from what its manifest says, every stage anew, and compared with it byte for byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import metrics, policy, preflight, stages
from flows.workspace import Workspace, as_made
from tasks.core.errors import TunelineError
from tasks.storage.lineage import Lineage, Remade
from tasks.storage.model_version import Version
from tasks.storage.registry import Registry

DIFFERS = "Differs"
SHOWN = 4


@flow(
    name="reproduce",
    flow_run_name=lambda: f"reproduce-{flow_run.parameters['reference']}",
    task_runner=policy.task_runner(),
    persist_result=False,
)
def reproduce(reference: str, tolerance: float = 0.0) -> State[Any]:
    """Make a version again. It is reproduced if every file of its models has the same bytes, or, where they differ, if no
    figure on the test rows and suites is further off than `tolerance`."""
    checkout = Path.cwd()
    try:
        registry = Registry.open(os.environ)
        version = registry.find(reference)
        preflight.check(Lineage.of(version).params)
        with as_made(checkout, f"reproduce-{os.getpid()}", version, registry) as run:
            return _made_again(run, version, tolerance)
    except TunelineError as error:
        return Failed(message=str(error))


def _made_again(run: Workspace, version: Version, tolerance: float) -> State[Any]:
    seconds: dict[str, float] = {}
    if failed := stages.finish(run, list(stages.submit(run, seconds).values())):
        return failed
    remade, elsewhere = Remade.of(version, run.root), Lineage.of(version).elsewhere(run.root)
    create_table_artifact(
        [{"file": name, "same bytes": "no" if name in remade.differing else "yes"} for name in remade.files],
        key="reproduction", description=f"{version.reference} made again",
    )  # fmt: skip
    value = {
        "version": version.reference, "same": not remade.differing, "files": len(remade.files),
        "differing": list(remade.differing), "metrics": dict(remade.metrics), "elsewhere": elsewhere, "seconds": seconds,
    }  # fmt: skip
    if not remade.differing:
        return Completed(
            message=f"{version.reference} made again: {len(remade.files)} files, all the same bytes", data=value
        )
    words = _words(version, remade, elsewhere)
    if remade.furthest <= tolerance:
        return Completed(name="Within tolerance", message=words, data=value)
    return Failed(name=DIFFERS, message=f"{words}; --tolerance {remade.furthest:.2g} would accept it")


def _words(version: Version, remade: Remade, elsewhere: list[str]) -> str:
    many = len(remade.differing)
    shown = ", ".join(remade.differing[:SHOWN]) + (f" and {many - SHOWN} more" if many > SHOWN else "")
    reasons = f" (not as it was made: {'; '.join(elsewhere)})" if elsewhere else ""
    return (
        f"{version.reference} made again: {many} of {len(remade.files)} files differ ({shown}), its figures by "
        f"{remade.furthest:.2g} at the most{reasons}"
    )


metrics.ends(reproduce)
