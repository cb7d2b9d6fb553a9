"""Rows that have landed, and whether they are trained on: told in the UI either way, and each data version once."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Literal

from prefect.events import emit_event

from tasks.core.params import Params
from tasks.data.readiness import Decision, decide
from tasks.storage.claims import Claims
from tasks.storage.corpus import Corpus, DataVersion
from tasks.storage.registry import Registry

LANDED, READY = "tuneline.data.landed", "tuneline.data.ready"
"""Events: somebody says that files have landed; rows are worth a training. infra/prefect.yaml has what they start."""
SKIPPED = "Skipped"


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
