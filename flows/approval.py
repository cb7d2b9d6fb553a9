"""A person's word on what the gate let pass: the run is suspended until the form in the UI is answered, and its process ends.

    log: await     a run asks, and names the verdict it asks about
    log: promote   the answer was yes
    log: decline   it was no, or none came in time (flows/automations.py)

A run that is resumed finds in the registry what it asked, so that code or data that changed meanwhile train nothing anew.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from prefect.client.schemas.objects import State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from flows import metrics
from tasks.data.report import rulings
from tasks.storage import aliases, checkout, promotion
from tasks.storage.audit import LogEntry
from tasks.storage.judgements import Judgement
from tasks.storage.registry import Registry


class Approval(RunInput):
    """The form. As it stands unanswered it is a no."""

    decision: Annotated[Literal["promote", "refuse"], Field(description="does it take the alias?")] = "refuse"
    reason: Annotated[str, Field(max_length=1000, description="for the audit log")] = ""
    by: Annotated[str, Field(max_length=100, description="your name, for the audit log")] = ""


def ask(registry: Registry, judgement: Judgement, run: str) -> None:
    """Record that the run asks about this judgement; the same question is recorded once."""
    if not any(entry.verdict == judgement.digest for entry in _asked(registry, judgement.name, run)):
        registry.audit(judgement.name).append(LogEntry(
            at=datetime.now(UTC), action="await", who=checkout.user(), version=judgement.version,
            verdict=judgement.digest, run=run,
        ))  # fmt: skip


def open_question(registry: Registry, model: str, run: str) -> Judgement | None:
    """The judgement that the run asked about last."""
    asked = _asked(registry, model, run)
    return registry.judgements.read(model, asked[-1].version, str(asked[-1].verdict)) if asked else None


def answered(registry: Registry, judgement: Judgement, hours: float) -> State[dict[str, str]]:
    """Suspend the run until there is an answer, or none within so many hours, then do as it says.

    Prefect's Pause, the first time. ModelError, ConflictError: the answer is yes, but the alias has moved, so that the
    version has to be compared with another one.
    """
    version = registry.read(judgement.name, judgement.version)
    table = "\n".join(_markdown(judgement))
    form = Approval.with_initial_data(description=(
        f"{version.reference} passed the gate against {judgement.opponents}. May it become {version.name}@{judgement.alias}? "
        f"Curves, samples and the data card are among the artifacts of this run.\n\n{table}"
    ))  # fmt: skip
    answer = suspend_flow_run(wait_for_input=form, key=f"approval-{judgement.digest[:16]}")
    who = answer.by.strip() or checkout.user()
    if answer.decision == "promote":
        move = promotion.promote(
            registry, version, judgement.alias, who=who, why=answer.reason.strip() or "approved",
            expect=judgement.champion or aliases.NOWHERE,
        )  # fmt: skip
        metrics.promoted(version.name)
        return Completed(name="Promoted", message=f"{move.words}, as {who} decided", data={"what": "promoted"})
    why = answer.reason.strip() or f"nobody agreed within {hours:g} h"
    if not registry.audit(version.name).declined(judgement.digest):
        registry.audit(version.name).append(LogEntry(
            at=datetime.now(UTC), action="decline", who=who, version=version.number, verdict=judgement.digest, why=why,
        ))  # fmt: skip
    return Completed(
        name="Refused", message=f"{version.reference} was refused by {who}: {why}", data={"what": "declined"}
    )


def _asked(registry: Registry, model: str, run: str) -> list[LogEntry]:
    return [entry for entry in registry.audit(model).entries() if entry.action == "await" and entry.run == run]


def _markdown(judgement: Judgement) -> list[str]:
    rows = rulings.rows(judgement.rulings)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
