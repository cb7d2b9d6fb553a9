"""What a person does to the registry, as flows, so that the UI has a form for it and keeps who asked when."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows import metrics
from tasks.core.errors import TunelineError
from tasks.storage import checkout, garbage, promotion
from tasks.storage.registry import Registry

Why = Annotated[str, Field(min_length=1, max_length=2000, description="for the audit log")]


@flow(name="promote", persist_result=False)
def promote(reference: str, why: Why, alias: str = "champion", unjudged: bool = False) -> State[Any]:
    """Make an alias name a version that the gate let pass; unjudged: also one that it did not."""

    def move(registry: Registry) -> str:
        version = registry.find(reference)
        moved = promotion.promote(registry, version, alias, who=checkout.user(), why=why, unjudged=unjudged)
        if moved.made:
            metrics.promoted(version.name)
        return moved.words

    return _done(move)


@flow(name="rollback", persist_result=False)
def rollback(name: str, why: Why, alias: str = "champion") -> State[Any]:
    """Take an alias back to the version that it named before."""

    def move(registry: Registry) -> str:
        return registry.aliases.rollback(name, alias, who=checkout.user(), why=why, now=datetime.now(UTC)).words

    return _done(move)


@flow(name="gc", persist_result=False)
def gc(
    keep: Annotated[int | None, Field(ge=1, description="versions of a model; none: no version goes")] = None,
    grace_hours: Annotated[float, Field(ge=0, le=100_000, description="younger blobs stay")] = 24.0,
    delete: Annotated[bool, Field(description="else it is only said what would go")] = False,
) -> State[Any]:
    """Remove blobs that no version names, and versions beyond the newest."""

    def collect(registry: Registry) -> str:
        grace, now = timedelta(hours=grace_hours), datetime.now(UTC)
        if delete:
            return f"removed: {garbage.collect(registry, keep, grace, now, checkout.user()).words}"
        return f"would go: {garbage.plan(registry, keep, grace, now).words}"

    return _done(collect)


def _done(work: Callable[[Registry], str]) -> State[Any]:
    try:
        return Completed(message=work(Registry.open(os.environ)))
    except TunelineError as error:
        return Failed(message=str(error))
