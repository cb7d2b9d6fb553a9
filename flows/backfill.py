"""The line over past data versions, oldest first: how each arrival would have done."""

from __future__ import annotations

import os
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows import metrics
from flows.retrain import retrain
from tasks.core.errors import TunelineError
from tasks.storage.corpus import Corpus


@flow(name="backfill", persist_result=False)
def backfill(
    versions: Annotated[list[str], Field(min_length=1, description="of the corpus: v1, v2, ...")],
) -> State[Any]:
    """Retrain on each, by params.yaml as it is now; the gate judges each against the champion of that moment."""
    try:
        corpus = Corpus.open(os.environ)
        found = sorted((corpus.read(name) for name in versions), key=lambda version: version.number)
    except TunelineError as error:
        return Failed(message=str(error))
    told: list[str] = []
    for version in found:
        state = retrain(data=version.name, return_state=True)
        told.append(f"{version.name}: {state.message}")
        if not state.is_completed():
            return Failed(message="; ".join(told))
    return Completed(message="; ".join(told))


metrics.ends(backfill)
