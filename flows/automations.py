"""What the Prefect server does by itself for the line's runs: the silent have crashed, the crashed go on, what nobody
answered is a no, and whoever wants to know is told. `tuneline up` and infra/deploy.py install it.

A run's heartbeat is an event that its process sends; when the process is killed with its runner, nobody else would say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, ResumeFlowRun, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound

from tasks.core.errors import ParamsError
from tasks.core.rules import LimitsParams

OURS = "tuneline"
"""The tag of every run of the line."""
GOES_ON = "goes-on"
"""The tag of deployments whose runs may be begun again at any point: what they have done is found, not done twice."""

AGAIN: dict[str, Any] = {
    "type": StateType.SCHEDULED, "name": "AwaitingRetry", "message": "it crashed, and goes on",
}  # fmt: skip
"""The state of a run that is begun again."""

HEARTBEAT_SECONDS = 30
SILENT_AFTER = timedelta(seconds=3 * HEARTBEAT_SECONDS)
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}

NOTIFY = "TUNELINE_NOTIFY"
"""A notification block, as TYPE/NAME (`slack-webhook/team`): it is told what was promoted, refused, or failed."""
NOTICE = f"{OURS}: somebody is told"
TOLD = ("Promoted", "Refused", "Failed", "Suspended")


def install(environ: Mapping[str, str], limits: LimitsParams) -> list[str]:
    """Put them there, in place of what stands there by their names; the names.

    ParamsError: TUNELINE_NOTIFY names no notification block.
    """
    with get_client(sync_client=True) as client:
        wanted = [_silent(), _crashed(), _unanswered(limits), *_notice(environ, client)]
        names = [automation.name for automation in wanted]
        for automation in wanted:
            if standing := client.read_automations_by_name(automation.name):
                client.update_automation(standing[0].id, automation)
            else:
                client.create_automation(automation)
        if NOTICE not in names:
            for left in client.read_automations_by_name(NOTICE):
                client.delete_automation(left.id)
    return names


def _trigger(*tags: str, deployed: bool = False, **fields: Any) -> EventTrigger:
    """On runs with all of these tags, each run for itself."""
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in (OURS, *tags)]
    if deployed:
        related.append({"prefect.resource.id": "prefect.deployment.*", "prefect.resource.role": "deployment"})
    return EventTrigger.model_validate({
        "match": {"prefect.resource.id": "prefect.flow-run.*"}, "match_related": related,
        "for_each": ["prefect.resource.id"], "threshold": 1, **fields,
    })  # fmt: skip


def _silent() -> AutomationCore:
    return AutomationCore(
        name=f"{OURS}: a silent run has crashed",
        description=f"No heartbeat for {SILENT_AFTER.seconds} s.",
        trigger=_trigger(
            posture="Proactive", after=["prefect.flow-run.heartbeat"], expect=["prefect.flow-run.*"], within=SILENT_AFTER
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="its process fell silent", force=False)
        ],
    )  # fmt: skip


def _crashed() -> AutomationCore:
    """A run without a deployment has nobody who would begin it again: who started it does."""
    return AutomationCore(
        name=f"{OURS}: a crashed run goes on",
        description="Its stages are cached, and a training resumes from its checkpoint.",
        trigger=_trigger(
            GOES_ON, deployed=True, posture="Reactive", expect=["prefect.flow-run.Crashed"], within=timedelta(0)
        ),
        actions=[ChangeFlowRunState(state=AGAIN["type"], name=AGAIN["name"], message=AGAIN["message"], force=True)],
    )


def _unanswered(limits: LimitsParams) -> AutomationCore:
    """Resumed without an answer, a run takes it for a no (flows/approval.py)."""
    return AutomationCore(
        name=f"{OURS}: nobody approved",
        description=f"No answer within {limits.approval_hours:g} h is a no (limits.approval_hours).",
        trigger=_trigger(
            posture="Proactive", after=["prefect.flow-run.Suspended"], expect=["prefect.flow-run.*"],
            within=timedelta(hours=limits.approval_hours),
        ),
        actions=[ResumeFlowRun()],
    )  # fmt: skip


def _notice(environ: Mapping[str, str], client: SyncPrefectClient) -> list[AutomationCore]:
    if not (slug := environ.get(NOTIFY)):
        return []
    notice = SendNotification(
        block_document_id=_block(slug, client),
        subject="{{ flow.name }}: {{ flow_run.state.name }}",
        body="{{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    told = [f"prefect.flow-run.{state}" for state in TOLD]
    trigger = _trigger(posture="Reactive", expect=told, within=timedelta(0))
    return [AutomationCore(name=NOTICE, description=f"{slug}: {', '.join(TOLD)}", trigger=trigger, actions=[notice])]


def _block(slug: str, client: SyncPrefectClient) -> UUID:
    """ParamsError: no such block, or one that notifies nobody."""
    kind, _, name = slug.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise ParamsError(
            f"{NOTIFY}: there is no block {slug!r}, as TYPE/NAME: make one in the UI under Blocks, or in Python"
        ) from None
    if found.block_schema is None or "notify" not in found.block_schema.capabilities:
        raise ParamsError(f"{NOTIFY}: {slug} is a block that notifies nobody: slack-webhook, sendgrid-email, ... do")
    return found.id
