"""Whether what has landed is worth a training now. Pure: of the news, the rules and the time."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict

from tasks.core.rules import TriggerParams


class News(BaseModel):
    """The rows that arrived after what was trained on. drift: from that, None where nothing was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    rows: int
    first: AwareDatetime
    last: AwareDatetime
    drift: float | None


class Decision(BaseModel):
    """`due`: train now; `reason` says in words why, or why not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    due: bool
    reason: str


def decide(news: News | None, rules: TriggerParams, now: datetime) -> Decision:
    """Laws: never in quiet hours, nor while rows still arrive; outside of those, more rows, more drift or a longer wait
    never turn a yes into a no; what has waited for `wait_hours` is trained on, however few rows it is."""
    if news is None:
        return Decision(due=False, reason="nothing has arrived since the last training")
    if span := quiet(rules, now):
        return Decision(due=False, reason=f"{news.version} waits: {span} ({rules.timezone}) are quiet hours")
    settled = news.last + timedelta(minutes=rules.settle_minutes)
    if now < settled:
        return Decision(
            due=False, reason=f"{news.version} waits: rows still arrive, the last {_ago(now - news.last)} ago"
        )
    if news.rows >= rules.rows:
        return Decision(due=True, reason=f"{news.version} brings {news.rows} new rows, at least {rules.rows}")
    if rules.drift is not None and news.drift is not None and news.drift > rules.drift:
        return Decision(due=True, reason=f"{news.version} drifts by {news.drift:.3f}, more than {rules.drift}")
    waited = now - news.first
    if waited >= timedelta(hours=rules.wait_hours):
        return Decision(
            due=True, reason=f"{news.version} has waited for {_ago(waited)}, at least {rules.wait_hours:g} h"
        )
    drifted = "" if news.drift is None or rules.drift is None else f", drift {news.drift:.3f} of {rules.drift}"
    return Decision(
        due=False,
        reason=f"{news.version} waits: {news.rows} of {rules.rows} new rows{drifted}, for {_ago(waited)} of {rules.wait_hours:g} h",
    )


def quiet(rules: TriggerParams, now: datetime) -> str | None:
    """The quiet hours that it is, as they are written; None outside of any. A span may go past midnight."""
    minute = (local := now.astimezone(ZoneInfo(rules.timezone))).hour * 60 + local.minute
    for span in rules.quiet:
        begin, end = (int(clock[:2]) * 60 + int(clock[3:]) for clock in span.split("-"))
        if begin <= minute < end or (end <= begin and (minute >= begin or minute < end)):
            return span
    return None


def _ago(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
