"""Landing files into the corpus, and the word that a training is due."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import arrivals, metrics, parent, policy
from tasks import ingest as take_in
from tasks.core import params
from tasks.core.errors import ParamsError, TransientError, TunelineError
from tasks.ingest import Ingested
from tasks.storage.corpus import Corpus


@flow(name="ingest", task_runner=policy.task_runner(), persist_result=False)
def ingest() -> State[Any]:
    """Take in every file that has landed in TUNELINE_LANDING, then decide whether a training is due."""
    parent.watch(os.environ, flow_run.id)
    try:
        chosen = params.load()
        if "TUNELINE_LANDING" not in os.environ:
            raise ParamsError(
                "where do files land? Set TUNELINE_LANDING to a folder or s3://BUCKET/PREFIX, then start again"
            )
        taking = policy.as_task(_take, "take in").submit(chosen)
        taking.wait()
        if not taking.state.is_completed():
            return Failed(message=taking.state.message)
        done: Ingested = taking.result()
        metrics.took_in(done)
        decision = arrivals.look(Corpus.open(os.environ), chosen)
    except TunelineError as error:
        return Failed(message=str(error))
    taken = f"{done.version.name}, {done.version.rows} rows" if done.version else "no rows yet"
    words = f"{taken}{'' if done.created else ', as before'}; {decision.reason}"
    return Completed(
        name="Ready" if decision.due else "Waiting",
        message=words,
        data={
            "version": done.version and done.version.name,
            "created": done.created,
            "due": decision.due,
            "reason": decision.reason,
        },
    )


def _take(chosen: params.Params) -> Ingested | State[Any]:
    try:
        return take_in.ingest(chosen.data, source=os.environ["TUNELINE_LANDING"], workspace=Path.cwd())
    except TransientError:
        raise
    except TunelineError as error:
        return Failed(message=str(error))


metrics.ends(ingest)
