"""Rows that have landed, and whether they are trained on: told in the UI either way, and each data version once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource, emit_event

from tasks.core.errors import ServiceError, TransientError
from tasks.core.params import Params
from tasks.data.readiness import Decision, decide
from tasks.storage.claims import Claims
from tasks.storage.corpus import Corpus, DataVersion
from tasks.storage.notices import Landed
from tasks.storage.registry import Registry

LANDED, READY = "tuneline.data.landed", "tuneline.data.ready"
"""Events: somebody says that files have landed; rows are worth a training. infra/prefect.yaml has what they start."""
SKIPPED = "Skipped"
SHOWN = 100
"""Keys that an event carries: it is for people, and whoever it starts lists the landing place."""


def announce(files: Sequence[Landed]) -> None:
    """Send LANDED, once for all of them. The server has it when this returns: `emit_event` only promises to try.

    TransientError: no answer, or a failure of the server's own. ServiceError: it refuses.
    """
    event = Event(
        event=LANDED, resource=Resource({"prefect.resource.id": "tuneline.landing"}),
        payload={
            "count": len(files), "keys": [file.key for file in files[:SHOWN]],
            "buckets": sorted({file.bucket for file in files}),
        },
    )  # fmt: skip
    client = get_client(sync_client=True)
    where = f"telling {client.api_url} that files have landed"
    try:
        with client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except HTTPStatusError as error:
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise TransientError(f"{where}: the Prefect server failed with status {status}") from None
        raise ServiceError(
            f"{where}: it refused with status {status}: check PREFECT_API_URL, and PREFECT_API_AUTH_STRING or "
            "PREFECT_API_KEY"
        ) from None
    except HTTPError as error:
        raise TransientError(
            f"{where}: no answer ({type(error).__name__}): check PREFECT_API_URL, and that the server runs"
        ) from None


def look(corpus: Corpus, chosen: Params) -> Decision:
    """Whether a training is due; if so, the event that starts it is sent."""
    claims = Claims(corpus, chosen.publish.name)
    news = claims.news(Registry.open(os.environ))
    decision = decide(news, chosen.trigger, datetime.now(UTC))
    if news and decision.due:
        emit_event(
            READY, resource={"prefect.resource.id": f"tuneline.model.{chosen.publish.name}"},
            payload={"data": news.version, "rows": news.rows, "reason": decision.reason},
        )  # fmt: skip
    return decision


def claim(corpus: Corpus, chosen: Params, when: Literal["new", "due"], run: str) -> tuple[Decision, DataVersion | None]:
    """Whether this run trains, and on which version: rows are new, or due, and no other run has taken them.

    A run that was taken up again after a crash goes on with what it had claimed, whatever has arrived since.
    """
    claims, now = Claims(corpus, chosen.publish.name), datetime.now(UTC)
    if mine := claims.held(run):
        return Decision(due=True, reason=f"v{mine} is this run's already"), corpus.read(f"v{mine}")
    news = claims.news(Registry.open(os.environ))
    if when == "new" and news:
        decision = Decision(due=True, reason=f"{news.version} brings {news.rows} new rows")
    else:
        decision = decide(news, chosen.trigger, now)
    if news is None or not decision.due:
        return decision, None
    version = corpus.read(news.version)
    taken = claims.take(version.number, run, now)
    if taken.run != run:
        return Decision(
            due=False, reason=f"{version.name} was taken by run {taken.run} at {taken.at:%Y-%m-%d %H:%M}"
        ), None
    return decision, version
